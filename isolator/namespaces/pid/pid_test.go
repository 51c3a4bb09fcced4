package pid

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
	"berth/launcher/plan"
)

func config(share bool, rootfs string) *v1.ContainerConfig {
	c := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{LinuxInfo: &v1.LinuxInfo{SharePidNamespace: proto.Bool(share)}}}
	if rootfs != "" {
		c.Rootfs = proto.String(rootfs)
	}
	return c
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(true), isolatortest.Requests{
		Good: config(false, ""),
		Bad:  map[string]*v1.ContainerConfig{"the host's, where that is not allowed": config(true, "/rootfs"), "and without an image": config(true, "")},
	})
}

func TestPrepare(t *testing.T) {
	for _, c := range []struct {
		name   string
		config *v1.ContainerConfig
		want   *isolator.LaunchInfo
	}{
		{"with an image", config(false, "/rootfs"), &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.PID}}},
		{"on the host", config(false, ""), &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.PID},
			Mounts: []plan.Mount{{Target: "/proc", Source: "proc", Type: "proc", Fixed: true, Flags: plan.NoSuid | plan.NoDev | plan.NoExec}}}},
		{"shared", config(true, "/rootfs"), nil},
		{"shared, on the host", config(true, ""), nil},
	} {
		got, err := New(false).Prepare(t.Context(), &isolator.Container{Config: c.config})
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
}

// What is not allowed is the namespace of the host; a parent may be joined.
func TestANestedContainerSharesWithItsParentAlone(t *testing.T) {
	nested := &isolator.Container{Config: config(true, "/rootfs"), Parent: &isolator.Container{Config: config(false, "")}}
	got, err := New(true).Prepare(t.Context(), nested)
	if diff := cmp.Diff(&isolator.LaunchInfo{Enter: []launcher.Namespace{launcher.PID}}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}
