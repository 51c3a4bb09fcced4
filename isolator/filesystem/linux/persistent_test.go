package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher/plan"
)

func persisting(role, id, at string, change ...func(*v1.Resource)) *v1.Resource {
	r := &v1.Resource{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(),
		Reservations: []*v1.Resource_ReservationInfo{{Role: proto.String("other")}, {Role: &role}},
		Disk: &v1.Resource_DiskInfo{Persistence: &v1.Resource_DiskInfo_Persistence{Id: &id},
			Volume: &v1.Volume{ContainerPath: &at, Mode: v1.Volume_RW.Enum()}}}
	for _, c := range change {
		c(r)
	}
	return r
}

func shared(r *v1.Resource) { r.Shared = &v1.Resource_SharedInfo{} }

func with(resources ...*v1.Resource) *v1.ContainerConfig {
	c := config("/rootfs", false)
	c.Resources = resources
	return c
}

func keeping(dir string) *Isolator {
	o := options
	o.Volume = func(role, id string) string { return filepath.Join(dir, "volumes", role, id) }
	return New(o)
}

func TestConformanceOfPersistentVolumes(t *testing.T) {
	isolatortest.Run(t, keeping(t.TempDir()), isolatortest.Requests{
		Good: with(persisting("db", "data", "data"), &v1.Resource{Name: proto.String("cpus")}),
		Bad: map[string]*v1.ContainerConfig{
			"an id that climbs":    with(persisting("db", "..", "data")),
			"an id that is a path": with(persisting("db", "a/b", "data")),
			"no id":                with(persisting("db", "", "data")),
			"no role":              with(persisting("*", "data", "data")),
			"a role that climbs":   with(persisting("a/../..", "data", "data")),
			"a role with a blank":  with(persisting("a b", "data", "data")),
			"a place that climbs":  with(persisting("db", "data", "../data")),
			"another resource":     with(persisting("db", "data", "data", func(r *v1.Resource) { r.Name = proto.String("mem") })),
			"no volume":            with(persisting("db", "data", "data", func(r *v1.Resource) { r.Disk.Volume = nil })),
			"no mode":              with(persisting("db", "data", "data", func(r *v1.Resource) { r.Disk.Volume.Mode = nil })),
			"a path of the host":   with(persisting("db", "data", "data", func(r *v1.Resource) { r.Disk.Volume.HostPath = proto.String("/etc") })),
			"a disk elsewhere": with(persisting("db", "data", "data", func(r *v1.Resource) {
				r.Disk.Source = &v1.Resource_DiskInfo_Source{Type: v1.Resource_DiskInfo_Source_MOUNT.Enum()}
			})),
		},
	})
}

func TestPersistentVolumes(t *testing.T) {
	dir := t.TempDir()
	i := keeping(dir)
	readOnly := func(r *v1.Resource) { r.Disk.Volume.Mode = v1.Volume_RO.Enum() }
	info, err := i.Prepare(t.Context(), &isolator.Container{Config: with(persisting("db", "data", "data"), persisting("db", "more", "/more", readOnly))})
	if err != nil {
		t.Fatal(err)
	}
	data, more := filepath.Join(dir, "volumes/db/data"), filepath.Join(dir, "volumes/db/more")
	want := []plan.Mount{{Target: "/mnt/mesos/sandbox/data", Source: data, Flags: plan.NoSuid | plan.NoDev},
		{Target: "/more", Source: more, Flags: plan.NoSuid | plan.NoDev | plan.ReadOnly}}
	if diff := cmp.Diff(want, info.Volumes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{data, more}, info.Owned); diff != "" {
		t.Error(diff)
	}
	if made, err := os.Stat(data); err != nil || made.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", made, err)
	}
	nested, err := container.ParseID("a.b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Prepare(t.Context(), &isolator.Container{ID: nested, Config: with(persisting("db", "data", "data"))}); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), "SANDBOX_PATH") {
		t.Errorf("of a nested container: %v", err)
	}
}

// A shared volume is not taken away from the user who has it.
func TestTheOwnerOfASharedVolume(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	volume := filepath.Join(dir, "volumes/db/data")
	owned := func() bool {
		info, err := keeping(dir).Prepare(t.Context(), &isolator.Container{Config: with(persisting("db", "data", "data", shared))})
		if err != nil {
			t.Fatal(err)
		}
		return len(info.Owned) == 1
	}
	for range 2 { // the first launch may have failed
		if !owned() {
			t.Error("a volume that nobody has used gets no user")
		}
	}
	if err := os.WriteFile(filepath.Join(volume, "of-root"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if owned() {
		t.Error("root's is given away")
	}
	if err := errors.Join(os.Remove(filepath.Join(volume, "of-root")), os.Chown(volume, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	if owned() {
		t.Error("another user's is given away")
	}
}

func TestAVolumeIsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "volumes/db"), 0o755), os.Symlink("/etc", filepath.Join(dir, "volumes/db/data"))); err != nil {
		t.Fatal(err)
	}
	if info, err := keeping(dir).Prepare(t.Context(), &isolator.Container{Config: with(persisting("db", "data", "data"))}); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("%+v, %v", info, err)
	}
}
