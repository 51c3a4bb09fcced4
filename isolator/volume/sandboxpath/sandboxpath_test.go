package sandboxpath

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

func volume(kind v1.Volume_Source_SandboxPath_Type, path, at string, mode v1.Volume_Mode) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: mode.Enum(), Source: &v1.Volume_Source{
		Type:        v1.Volume_Source_SANDBOX_PATH.Enum(),
		SandboxPath: &v1.Volume_Source_SandboxPath{Type: kind.Enum(), Path: &path},
	}}
}

const (
	self   = v1.Volume_Source_SandboxPath_SELF
	parent = v1.Volume_Source_SandboxPath_PARENT
	rw, ro = v1.Volume_RW, v1.Volume_RO
)

func config(sandbox string, volumes ...*v1.Volume) *v1.ContainerConfig {
	return &v1.ContainerConfig{Directory: &sandbox, Rootfs: proto.String("/rootfs"), ContainerInfo: &v1.ContainerInfo{Volumes: volumes}}
}

// sandboxes lie beside each other, by the whole id.
func newIsolator(dir string) *Isolator {
	return New(Options{SandboxDirectory: "/box", Sandbox: func(id container.ID) string { return filepath.Join(dir, id.String()) }})
}

func parse(t *testing.T, text string) container.ID {
	t.Helper()
	id, err := container.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestConformance(t *testing.T) {
	sandbox := t.TempDir()
	other := volume(self, "a", "/v", rw)
	other.Source.Secret = &v1.Secret{}
	isolatortest.Run(t, newIsolator(t.TempDir()), isolatortest.Requests{
		Good: config(sandbox, volume(self, "a/b", "/v", rw)),
		Bad: map[string]*v1.ContainerConfig{
			"a relative place of its own":      config(sandbox, volume(self, "a", "v", rw)),
			"the parent of a root container":   config(sandbox, volume(parent, "a", "/v", rw)),
			"no type":                          config(sandbox, volume(v1.Volume_Source_SandboxPath_UNKNOWN, "a", "/v", rw)),
			"an absolute path":                 config(sandbox, volume(self, "/etc", "/v", rw)),
			"a path that climbs":               config(sandbox, volume(self, "a/../../b", "/v", rw)),
			"no path":                          config(sandbox, volume(self, "", "/v", rw)),
			"a member that is of another type": config(sandbox, other),
		},
	})
}

func prepare(t *testing.T, i *Isolator, id string, c *v1.ContainerConfig) (*isolator.LaunchInfo, error) {
	t.Helper()
	return i.Prepare(t.Context(), &isolator.Container{ID: parse(t, id), Config: c})
}

func TestOfTheOwnSandbox(t *testing.T) {
	sandbox := t.TempDir()
	if err := os.WriteFile(filepath.Join(sandbox, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := prepare(t, newIsolator(t.TempDir()), "c", config(sandbox, volume(self, "a/./b", "/v", rw), volume(self, "file", "/f", ro)))
	want := &isolator.LaunchInfo{ForUser: []string{"a/b", "file"}, Volumes: []plan.Mount{
		{Target: "/v", Source: sandbox, SubPath: "a/b"}, {Target: "/f", Source: sandbox, SubPath: "file", Flags: plan.ReadOnly}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if info, err := os.Stat(filepath.Join(sandbox, "a/b")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if got, err := prepare(t, newIsolator(t.TempDir()), "c", config(sandbox)); got != nil || err != nil {
		t.Errorf("without volumes: %+v, %v", got, err)
	}
}

func TestOfTheParentsSandbox(t *testing.T) {
	dir := t.TempDir()
	i := newIsolator(dir)
	up := i.Sandbox(parse(t, "a"))
	if err := errors.Join(os.Mkdir(up, 0o750), os.Mkdir(filepath.Join(up, "there"), 0o711)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(up, 1000, 100); err != nil {
			t.Fatal(err)
		}
	}
	got, err := prepare(t, i, "a.b", config(t.TempDir(), volume(parent, "new/dir", "/v", rw), volume(parent, "there", "w", ro)))
	want := &isolator.LaunchInfo{Volumes: []plan.Mount{
		{Target: "/v", Source: up, SubPath: "new/dir"}, {Target: "/box/w", Source: up, SubPath: "there", Flags: plan.ReadOnly}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	owner := func(path string) [2]uint32 {
		info, err := os.Stat(filepath.Join(up, path))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		return [2]uint32{st.Uid, st.Gid}
	}
	if owner("new/dir") != owner(".") {
		t.Errorf("what was made is of %d, the sandbox of %d", owner("new/dir"), owner("."))
	}
	if info, err := os.Stat(filepath.Join(up, "there")); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("what was there: %v, %v", info, err)
	}
	// The direct parent's, not the root container's.
	if _, err := prepare(t, i, "a.b.c", config(t.TempDir(), volume(parent, "x", "/v", rw))); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("a parent without sandbox: %v", err)
	}
	if _, err := os.Stat(filepath.Join(up, "x")); err == nil {
		t.Error("it was made in the grandparent's sandbox")
	}
}

// The parent may have put anything into its sandbox.
func TestLinksLeadNowhereOutOfASandbox(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	i := newIsolator(dir)
	up := i.Sandbox(parse(t, "a"))
	err := errors.Join(os.Mkdir(up, 0o755), os.Symlink(outside, filepath.Join(up, "trap")),
		os.Symlink("circle", filepath.Join(up, "circle")), os.WriteFile(filepath.Join(up, "file"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"trap/in", "circle", "file/in"} {
		if got, err := prepare(t, i, "a.b", config(t.TempDir(), volume(parent, path, "/v", rw))); err == nil {
			t.Errorf("%s: prepared %+v", path, got)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}
