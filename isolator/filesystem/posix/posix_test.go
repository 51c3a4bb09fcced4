package posix

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func config(change func(*v1.ContainerConfig)) *v1.ContainerConfig {
	c := &v1.ContainerConfig{Directory: proto.String("/work/containers/c")}
	if change != nil {
		change(c)
	}
	return c
}

func TestConformance(t *testing.T) {
	volume := &v1.Volume{HostPath: proto.String("/etc"), ContainerPath: proto.String("/mnt"), Mode: v1.Volume_RO.Enum()}
	isolatortest.Run(t, New(), isolatortest.Requests{
		Good: config(nil), HostOnly: true,
		Bad: map[string]*v1.ContainerConfig{
			"a root filesystem": config(func(c *v1.ContainerConfig) { c.Rootfs = proto.String("/rootfs") }),
			"a volume":          config(func(c *v1.ContainerConfig) { c.ContainerInfo = &v1.ContainerInfo{Volumes: []*v1.Volume{volume}} }),
			"a read-only root":  config(func(c *v1.ContainerConfig) { c.ReadOnlyRootfs = proto.Bool(true) }),
			"a persistent volume": config(func(c *v1.ContainerConfig) {
				c.Resources = []*v1.Resource{{Name: proto.String("disk"), Role: proto.String("db"), Disk: &v1.Resource_DiskInfo{
					Persistence: &v1.Resource_DiskInfo_Persistence{Id: proto.String("data")},
					Volume:      &v1.Volume{ContainerPath: proto.String("data"), Mode: v1.Volume_RW.Enum()}}}}
			}),
		},
	})
}

func TestTheContainerWorksInItsSandboxAndHasNoNamespace(t *testing.T) {
	got, err := New().Prepare(t.Context(), &isolator.Container{Config: config(nil)})
	want := &isolator.LaunchInfo{WorkingDir: "/work/containers/c", Env: []string{"MESOS_SANDBOX=/work/containers/c"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got.HasMounts() {
		t.Error("it has mounts of its own")
	}
}
