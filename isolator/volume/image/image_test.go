package image

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher/plan"
)

// provision names root filesystems by their container and image, and those that nobody writes
// to by that.
func provision(_ context.Context, id container.ID, volumes []Volume, _ container.IDRange) (paths []string, err error) {
	for i, v := range volumes {
		path := fmt.Sprintf("/provisioned/%s/%d/%s", id, i, v.Image.GetDocker().GetName())
		if v.ReadOnly {
			path += "/read-only"
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func volume(name, at string, mode v1.Volume_Mode) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: mode.Enum(), Image: &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: &name}}}
}

func config(rootfs string, volumes ...*v1.Volume) *v1.ContainerConfig {
	c := &v1.ContainerConfig{Directory: proto.String("/work/c"), ContainerInfo: &v1.ContainerInfo{Volumes: volumes}}
	if rootfs != "" {
		c.Rootfs = &rootfs
	}
	return c
}

func newIsolator() *Isolator { return New(Options{SandboxDirectory: "/box", Provision: provision}) }

func TestConformance(t *testing.T) {
	part := volume("a", "/v", v1.Volume_RO)
	part.ImagePath = proto.String("../x")
	both := volume("a", "/v", v1.Volume_RO)
	both.HostPath = proto.String("/etc")
	isolatortest.Run(t, newIsolator(), isolatortest.Requests{
		Good: config("/rootfs", volume("a", "/v", v1.Volume_RO), volume("a", "w", v1.Volume_RW)),
		Bad: map[string]*v1.ContainerConfig{
			"a part that climbs":            config("/rootfs", part),
			"a target that climbs":          config("/rootfs", volume("a", "../v", v1.Volume_RO)),
			"two sources":                   config("/rootfs", both),
			"a missing target, on the host": config("", volume("a", "/no/such/place", v1.Volume_RO)),
		},
	})
}

func TestPrepare(t *testing.T) {
	part := volume("b", "w", v1.Volume_RW)
	part.ImagePath = proto.String("/models/small")
	other := &v1.Volume{ContainerPath: proto.String("/h"), Mode: v1.Volume_RW.Enum(), HostPath: proto.String("/etc")}
	id, err := container.ParseID("c")
	if err != nil {
		t.Fatal(err)
	}
	got, err := newIsolator().Prepare(t.Context(), &isolator.Container{ID: id, Config: config("/rootfs", volume("a", "/v", v1.Volume_RO), other, part)})
	const quiet = plan.NoDev | plan.NoSuid
	want := &isolator.LaunchInfo{Volumes: []plan.Mount{
		{Target: "/v", Source: "/provisioned/c/0/a/read-only", Flags: plan.ReadOnly | quiet, Provisioned: true},
		{Target: "/box/w", Source: "/provisioned/c/1/b", SubPath: "/models/small", Flags: quiet, Provisioned: true},
	}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

func TestWithoutImageVolumesNothingIsProvisioned(t *testing.T) {
	i := New(Options{SandboxDirectory: "/box"})
	if got, err := i.Prepare(t.Context(), &isolator.Container{Config: config("/rootfs")}); got != nil || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// What can be refused is refused before anything is fetched.
func TestABadRequestIsNotProvisioned(t *testing.T) {
	i := New(Options{SandboxDirectory: "/box"})
	c := &isolator.Container{Config: config("/rootfs", volume("a", "/v", v1.Volume_RO), volume("a", "/..", v1.Volume_RO))}
	if _, err := i.Prepare(t.Context(), c); !errors.Is(err, container.ErrInvalid) {
		t.Error(err)
	}
}

func TestAFailureToProvisionIsThatOfTheVolume(t *testing.T) {
	cause := errors.New("the cause")
	i := New(Options{Provision: func(context.Context, container.ID, []Volume, container.IDRange) ([]string, error) {
		return nil, cause
	}})
	if got, err := i.Prepare(t.Context(), &isolator.Container{Config: config("/rootfs", volume("a", "/v", v1.Volume_RO))}); got != nil || !errors.Is(err, cause) {
		t.Errorf("%+v, %v", got, err)
	}
}
