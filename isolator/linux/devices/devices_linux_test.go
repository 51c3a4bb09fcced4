package devices

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher/plan"
)

func allowed(path string, access *v1.DeviceAccess_Access) *v1.DeviceAccess {
	return &v1.DeviceAccess{Device: &v1.Device{Path: proto.String(path)}, Access: access}
}

var read = &v1.DeviceAccess_Access{Read: proto.Bool(true)}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New([]*v1.DeviceAccess{allowed("/dev/kmsg", read)}), isolatortest.Requests{Good: &v1.ContainerConfig{Rootfs: proto.String("/rootfs")}})
}

func TestPrepare(t *testing.T) {
	full := &v1.DeviceAccess_Access{Read: proto.Bool(true), Write: proto.Bool(true), Mknod: proto.Bool(true)}
	i := New([]*v1.DeviceAccess{
		allowed("/dev/kmsg", read),
		allowed("/dev/null", full), // every container has it
		{Device: &v1.Device{Number: &v1.Device_Number{MajorNumber: proto.Uint64(1), MinorNumber: proto.Uint64(11)}}, Access: full}, // it has no place
	})
	got, err := i.Prepare(t.Context(), &isolator.Container{Config: &v1.ContainerConfig{Rootfs: proto.String("/rootfs")}})
	want := &isolator.LaunchInfo{Nodes: []plan.Node{{Path: "/dev/kmsg", Mode: syscall.S_IFCHR | 0o644, Major: 1, Minor: 11}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if got, err := i.Prepare(t.Context(), &isolator.Container{Config: &v1.ContainerConfig{}}); got != nil || err != nil {
		t.Errorf("on the host's file system: %+v, %v", got, err)
	}
}

func TestADeviceThatHasGone(t *testing.T) {
	at := filepath.Join("/dev", "berth-"+filepath.Base(t.TempDir()))
	if _, err := os.Lstat(at); err == nil {
		t.Fatalf("%s is there", at)
	}
	_, err := New([]*v1.DeviceAccess{allowed(at, read)}).Prepare(t.Context(), &isolator.Container{Config: &v1.ContainerConfig{Rootfs: proto.String("/rootfs")}})
	if !errors.Is(err, container.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}
