//go:build linux

package linux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"berth/container"
	"berth/launcher"
	"berth/launcher/plan"
)

// The plan for a user namespace needs nothing that only root of the host can do.
func TestAPlanForAUserNamespace(t *testing.T) {
	spec := launcher.Spec{
		Namespaces: []launcher.Namespace{launcher.PID, launcher.User},
		Plan: plan.Plan{Rootfs: "/work/rootfs",
			Mounts: []plan.Mount{
				{Target: "/proc", Source: "proc", Type: "proc", Fixed: true},
				{Target: "/sys", Source: "sysfs", Type: "sysfs", Fixed: true, Flags: plan.ReadOnly, Options: []plan.Option{{Key: "a"}}},
				{Target: "/dev", Source: "dev", Type: "tmpfs", Fixed: true},
				{Target: "/dev/shm", Source: "/dev/shm", Fixed: true},
				{Target: "/dev/shm", Source: "/dev/shm", OfParent: true},
				{Target: "/box", Source: "/work/box"},
			},
			Nodes: []plan.Node{{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3}},
			Volumes: []plan.Mount{
				{Target: "/v", Source: "/host", SubPath: "sub", Propagation: plan.FromHost},
				{Target: "/secret", Source: "secret", Type: "ramfs", File: true},
				{Target: "/image", Source: "/work/image", Provisioned: true},
			}}}
	want := spec.Plan
	want.Mounts = []plan.Mount{
		{Target: "/proc", Source: "proc", Type: "proc", Fixed: true},
		{Target: "/sys", Source: "/sys", Fixed: true, Flags: plan.ReadOnly}, // the network is the host's
		{Target: "/dev", Source: "dev", Type: "tmpfs", Fixed: true},
		{Target: "/dev/shm", Source: "/dev/shm", Fixed: true},
		{Target: "/dev/shm", Source: "/dev/shm", OfParent: true},
		{Target: "/box", Source: "/work/box"},
		{Target: "/dev/null", Source: "/dev/null", Fixed: true},
	}
	want.Nodes, want.Handed, want.HandedAll = nil, 8, true
	before := spec.Plan.Mounts[1]
	got, sources := inUserNamespace(spec, spec.Namespaces)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(before, spec.Plan.Mounts[1]); diff != "" {
		t.Errorf("the plan that was given has changed:\n%s", diff)
	}
	if diff := cmp.Diff([]source{
		{path: "/work/rootfs", target: "/", alone: true},
		{path: "/sys", target: "/sys", alone: true},
		{path: "/dev/shm", target: "/dev/shm"},
		{path: "/dev/shm", target: "/dev/shm", ofParent: true},
		{path: "/work/box", target: "/box", mapped: true},
		{path: "/dev/null", target: "/dev/null", alone: true, device: &spec.Plan.Nodes[0]},
		{path: "/host", sub: "sub", target: "/v", mapped: true, propagation: plan.FromHost},
		{path: "/work/image", target: "/image"},
	}, sources, cmp.AllowUnexported(source{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	spec.Namespaces = append(spec.Namespaces, launcher.Network)
	if got, _ := inUserNamespace(spec, spec.Namespaces); got.Mounts[1].Type != "sysfs" {
		t.Errorf("with a network of its own: %+v", got.Mounts[1])
	}
}

// The host's file in the place of a device need not be it.
func TestADeviceThatIsAnother(t *testing.T) {
	newLauncher(t) // as root
	node := plan.Node{Path: "/dev/zero", Mode: unix.S_IFCHR, Major: 1, Minor: 3}
	d, err := source{path: "/dev/zero", alone: true, device: &node}.make(-1, nil)
	if !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestMoreMountsThanFitIntoAMessage(t *testing.T) {
	l := newLauncher(t)
	id := newID(t, l, "c")
	s := spec(t, l, id, "/bin/true")
	s.IDs = container.IDRange{Start: 3_000_000_000, Size: 65536}
	s.Namespaces = append(s.Namespaces, launcher.User)
	s.Plan.Rootfs = t.TempDir()
	if err := os.Mkdir(filepath.Join(s.Plan.Rootfs, "usr"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range plan.MaxHanded + 10 {
		s.Plan.Mounts = append(s.Plan.Mounts, plan.Mount{Target: "/usr", Source: "/usr", Fixed: true})
	}
	p, err := l.Fork(t.Context(), id, s)
	if err != nil {
		t.Fatal(err)
	}
	// It has all mounts, and then no /bin.
	var start *launcher.StartError
	if err := p.Release(t.Context()); !errors.As(err, &start) || start.Code != 127 {
		t.Errorf("the error is %v", err)
	}
}

func TestAHandoverThatDoesNotHappenIsClosed(t *testing.T) {
	spec := launcher.Spec{IDs: container.IDRange{Start: 1 << 20, Size: 1 << 16}}
	h, err := (&Launcher{}).newHandover(&spec)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := h.ours, h.theirs
	h.close()
	for _, end := range []*os.File{ours, theirs} {
		if err := end.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("an end is open: %v", err)
		}
	}
}
