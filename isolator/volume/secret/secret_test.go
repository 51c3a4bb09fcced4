package secret

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher/plan"
)

const hidden = "hunter2\x00\xff"

func value(data string) *v1.Secret {
	return &v1.Secret{Type: v1.Secret_VALUE.Enum(), Value: &v1.Secret_Value{Data: []byte(data)}}
}

func config(s *v1.Secret, at string) *v1.ContainerConfig {
	return &v1.ContainerConfig{Directory: proto.String("/work/c"), Rootfs: proto.String("/rootfs"), ContainerInfo: &v1.ContainerInfo{Volumes: []*v1.Volume{{
		ContainerPath: &at, Mode: v1.Volume_RO.Enum(), Source: &v1.Volume_Source{Type: v1.Volume_Source_SECRET.Enum(), Secret: s}}}}}
}

func bad() map[string]*v1.ContainerConfig {
	both := value(hidden)
	both.Reference = &v1.Secret_Reference{Name: proto.String("password")}
	untyped := value(hidden)
	untyped.Type = nil
	onHost := config(value(hidden), "/no/such/place")
	onHost.Rootfs = nil
	return map[string]*v1.ContainerConfig{
		"a reference": config(&v1.Secret{Type: v1.Secret_REFERENCE.Enum(),
			Reference: &v1.Secret_Reference{Name: proto.String("password")}}, "/s"),
		"a reference beside it":         config(both, "/s"),
		"no type":                       config(untyped, "/s"),
		"no value":                      config(&v1.Secret{Type: v1.Secret_VALUE.Enum()}, "/s"),
		"no secret":                     config(nil, "/s"),
		"a target that climbs":          config(value(hidden), "/../s"),
		"a missing target, on the host": onHost,
	}
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(Options{SandboxDirectory: "/box"}), isolatortest.Requests{Good: config(value(hidden), "/s"), Bad: bad()})
}

func TestPrepare(t *testing.T) {
	for _, data := range []string{hidden, ""} {
		got, err := New(Options{SandboxDirectory: "/box"}).Prepare(t.Context(), &isolator.Container{Config: config(value(data), "s")})
		want := &isolator.LaunchInfo{Volumes: []plan.Mount{{Target: "/box/s", Source: "secret", Type: "ramfs", File: true, Content: []byte(data),
			Flags: plan.ReadOnly | plan.NoSuid | plan.NoDev | plan.NoExec}}}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
}

func TestNoErrorTellsTheSecret(t *testing.T) {
	for name, c := range bad() {
		_, err := New(Options{}).Prepare(t.Context(), &isolator.Container{Config: c})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "a reference" && !strings.Contains(err.Error(), `"password"`) {
			t.Errorf("%v does not name the reference", err)
		}
	}
}
