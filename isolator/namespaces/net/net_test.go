package net

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
)

func networks(names ...string) *v1.ContainerConfig {
	c := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{}}
	for _, name := range names {
		c.ContainerInfo.NetworkInfos = append(c.ContainerInfo.NetworkInfos, &v1.NetworkInfo{Name: proto.String(name)})
	}
	return c
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(), isolatortest.Requests{
		Good: networks(None),
		Bad: map[string]*v1.ContainerConfig{
			"an unknown network": networks("mynet"), "without a name": networks(""), "none twice": networks(None, None), "none and another": networks(None, "mynet"),
		},
	})
}

func TestPrepare(t *testing.T) {
	for _, c := range []struct {
		name   string
		config *v1.ContainerConfig
		want   *isolator.LaunchInfo
	}{
		{"the host's", networks(), nil},
		{"none", networks(None), &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.Network}, Loopback: true}},
	} {
		got, err := New().Prepare(t.Context(), &isolator.Container{Config: c.config})
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
}
