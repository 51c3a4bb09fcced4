package uts

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
)

func named(name string) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Hostname: proto.String(name)}}
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(), isolatortest.Requests{
		Good: named("host"),
		Bad:  map[string]*v1.ContainerConfig{"65 bytes": named(strings.Repeat("x", 65))},
	})
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct {
		id     string
		config *v1.ContainerConfig
		want   string
	}{
		{"id", named("host"), "host"},
		{"id", named(strings.Repeat("h", 64)), strings.Repeat("h", 64)},
		{"id", &v1.ContainerConfig{}, "id"},
		{long, nil, long[:64]},
	} {
		id, err := container.ParseID(c.id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := New().Prepare(t.Context(), &isolator.Container{ID: id, Config: c.config})
		if err != nil {
			t.Fatal(err)
		}
		want := &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.UTS}, Hostname: c.want}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.id, diff)
		}
	}
}
