//go:build linux

package hostpath

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/mount/mounttest"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher/plan"
)

func volume(path, at string, mode v1.Volume_Mode) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: mode.Enum(), HostPath: &path}
}

func config(sandbox, rootfs string, volumes ...*v1.Volume) *v1.ContainerConfig {
	c := &v1.ContainerConfig{Directory: &sandbox, ContainerInfo: &v1.ContainerInfo{Volumes: volumes}}
	if rootfs != "" {
		c.Rootfs = &rootfs
	}
	return c
}

func newIsolator() *Isolator { return New(Options{SandboxDirectory: "/box"}) }

func TestConformance(t *testing.T) {
	sandbox := t.TempDir()
	isolatortest.Run(t, newIsolator(), isolatortest.Requests{
		Good: config(sandbox, t.TempDir(), volume("/etc", "/v", v1.Volume_RO), volume("a/b", "w", v1.Volume_RW)),
		Bad: map[string]*v1.ContainerConfig{
			"a missing source":              config(sandbox, "/rootfs", volume("/no/such/place", "/v", v1.Volume_RO)),
			"a source that climbs":          config(sandbox, "/rootfs", volume("../etc", "/v", v1.Volume_RO)),
			"a target that climbs":          config(sandbox, "/rootfs", volume("/etc", "/../v", v1.Volume_RO)),
			"a missing target, on the host": config(sandbox, "", volume("/etc", "/no/such/place", v1.Volume_RO)),
		},
	})
}

func prepare(t *testing.T, c *v1.ContainerConfig) *isolator.LaunchInfo {
	t.Helper()
	info, err := newIsolator().Prepare(t.Context(), &isolator.Container{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestPrepare(t *testing.T) {
	sandbox := t.TempDir()
	image := &v1.Volume{ContainerPath: proto.String("/i"), Mode: v1.Volume_RO.Enum(), Image: &v1.Image{}}
	got := prepare(t, config(sandbox, t.TempDir(), volume("/etc/", "/v", v1.Volume_RO), image, volume("a/./b", "w", v1.Volume_RW)))
	want := []plan.Mount{{Target: "/v", Source: "/etc", Flags: plan.ReadOnly, Propagation: plan.FromHost}, {Target: "/box/w", Source: sandbox, SubPath: "a/b"}}
	if diff := cmp.Diff(want, got.Volumes); diff != "" {
		t.Error(diff)
	}
	if got, err := newIsolator().Prepare(t.Context(), &isolator.Container{Config: config(sandbox, "")}); got != nil || err != nil {
		t.Errorf("without volumes: %+v, %v", got, err)
	}
}

func TestADirectoryOfTheSandboxIsLikeTheOneThatItHides(t *testing.T) {
	sandbox, rootfs := t.TempDir(), t.TempDir()
	for path, mode := range map[string]os.FileMode{"tmp": 0o777 | os.ModeSticky, "private": 0o700, "real": 0o751, "suid": 0o755 | os.ModeSetuid | os.ModeSetgid} {
		if err := os.Mkdir(filepath.Join(rootfs, path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(rootfs, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"inside": "/real", "outside": "/../../../../../../proc", "circle": "circle"} {
		if err := os.Symlink(target, filepath.Join(rootfs, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]os.FileMode{
		"/tmp": 0o777 | os.ModeSticky, "/private": 0o700, "/inside": 0o751, "/suid": 0o755 | os.ModeSetgid,
		"/missing": 0o755, "/missing/too": 0o755, "/outside": 0o755, "/circle": 0o755, "/file": 0o755, "/file/in": 0o755, "relative": 0o755,
	} {
		name := "for" + strings.ReplaceAll(at, "/", "-")
		launch := prepare(t, config(sandbox, rootfs, volume(name+"/deep", at, v1.Volume_RW)))
		info, err := os.Stat(filepath.Join(sandbox, name, "deep"))
		if err != nil {
			t.Fatal(err)
		}
		if there := slices.Contains([]string{"/tmp", "/private", "/inside", "/suid"}, at); there == slices.Contains(launch.ForUser, name+"/deep") {
			t.Errorf("%s: for the user are %q", at, launch.ForUser)
		}
		if mode := info.Mode() &^ os.ModeDir; mode != want {
			t.Errorf("%s: %v, want %v", at, mode, want)
		}
	}
}

// A sandbox need not be empty, and what is in it is not to be trusted.
func TestNothingIsMadeOutsideOfTheSandbox(t *testing.T) {
	sandbox, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(sandbox, "trap")); err != nil {
		t.Fatal(err)
	}
	c := &isolator.Container{Config: config(sandbox, t.TempDir(), volume("trap/in", "/v", v1.Volume_RW))}
	if info, err := newIsolator().Prepare(t.Context(), c); err == nil {
		t.Errorf("prepared %+v", info)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

func TestADirectoryOfTheSandboxThatIsThereStaysAsItIs(t *testing.T) {
	sandbox := t.TempDir()
	if err := os.Mkdir(filepath.Join(sandbox, "there"), 0o711); err != nil {
		t.Fatal(err)
	}
	prepare(t, config(sandbox, t.TempDir(), volume("there", "/v", v1.Volume_RW)))
	if info, err := os.Stat(filepath.Join(sandbox, "there")); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", info, err)
	}
}

// source is a volume by the newer way to say it.
func source(path, at string, mode v1.MountPropagation_Mode) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: v1.Volume_RW.Enum(), Source: &v1.Volume_Source{Type: v1.Volume_Source_HOST_PATH.Enum(),
		HostPath: &v1.Volume_Source_HostPath{Path: &path, MountPropagation: &v1.MountPropagation{Mode: mode.Enum()}}}}
}

// Where paths must lie, links do not lead out of, however they are made.
func TestOnlyPathsInThePrefixes(t *testing.T) {
	top := t.TempDir()
	safe, other := filepath.Join(top, "safe"), filepath.Join(top, "other")
	err := errors.Join(os.MkdirAll(safe+"/in", 0o755), os.Mkdir(safe+"-not", 0o755), os.Mkdir(other, 0o755),
		os.WriteFile(safe+"/file", nil, 0o600),
		os.Symlink("/etc", safe+"/link"), os.Symlink("../other", safe+"/up"), os.Symlink("in", safe+"/inside"),
		os.Symlink(safe+"/file", other+"/back"), os.Symlink("safe", top+"/alias"))
	if err != nil {
		t.Fatal(err)
	}
	i := New(Options{SandboxDirectory: "/box", Prefixes: []string{top + "/alias/", filepath.Join(top, "missing")}})
	sandbox := t.TempDir()
	for path, want := range map[string]plan.Mount{
		safe:             {Source: safe},
		safe + "/in":     {Source: safe, SubPath: "in"},
		safe + "/inside": {Source: safe, SubPath: "in"},
		safe + "/file":   {Source: safe, SubPath: "file"},
		other + "/back":  {Source: safe, SubPath: "file"},
		"own":            {Source: sandbox, SubPath: "own"},
	} {
		info, err := i.Prepare(t.Context(), &isolator.Container{Config: config(sandbox, t.TempDir(), volume(path, "/v", v1.Volume_RW))})
		if err != nil || info.Volumes[0].Source != want.Source || info.Volumes[0].SubPath != want.SubPath {
			t.Errorf("%s: %+v, %v, want %+v", path, info, err, want)
		}
	}
	for _, path := range []string{"/", "/etc", top, other, safe + "-not", safe + "/link", safe + "/link/ssl", safe + "/up", safe + "/in/../../other", "/proc/self/root/etc"} {
		for _, v := range []*v1.Volume{volume(path, "/v", v1.Volume_RO), source(path, "/v", v1.MountPropagation_HOST_TO_CONTAINER)} {
			info, err := i.Prepare(t.Context(), &isolator.Container{Config: config(sandbox, t.TempDir(), v)})
			if !errors.Is(err, container.ErrInvalid) {
				t.Errorf("%s: %+v, %v, want an error of class ErrInvalid", path, info, err)
			}
		}
	}
}

func TestAllOfTheHostIsInTheRoot(t *testing.T) {
	i := New(Options{Prefixes: []string{"/"}})
	info, err := i.Prepare(t.Context(), &isolator.Container{Config: config("", t.TempDir(), volume("/etc", "/v", v1.Volume_RW))})
	if err != nil || info.Volumes[0].Source != "/" || info.Volumes[0].SubPath != "etc" {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestPropagation(t *testing.T) {
	dir := mounttest.Dir(t)
	if err := unix.Mount("shared", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for _, c := range []struct {
		mode    v1.MountPropagation_Mode
		of      uintptr // the mount that the path lies on
		want    plan.Propagation
		refused bool
	}{
		{v1.MountPropagation_UNKNOWN, unix.MS_PRIVATE, plan.FromHost, false},
		{v1.MountPropagation_HOST_TO_CONTAINER, unix.MS_SHARED, plan.FromHost, false},
		{v1.MountPropagation_BIDIRECTIONAL, unix.MS_PRIVATE, 0, true},
		{v1.MountPropagation_BIDIRECTIONAL, unix.MS_SHARED, plan.BothWays, false},
		{7, unix.MS_SHARED, 0, true},
	} {
		if err := unix.Mount("", dir, "", c.of, ""); err != nil {
			t.Fatal(err)
		}
		info, err := newIsolator().Prepare(t.Context(), &isolator.Container{Config: config(t.TempDir(), t.TempDir(), source(dir, "/v", c.mode))})
		switch {
		case c.refused && !errors.Is(err, container.ErrInvalid):
			t.Errorf("%v on %x: %+v, %v, want an error of class ErrInvalid", c.mode, c.of, info, err)
		case !c.refused && (err != nil || info.Volumes[0].Propagation != c.want):
			t.Errorf("%v on %x: %+v, %v", c.mode, c.of, info, err)
		}
		if c.refused && c.mode == v1.MountPropagation_BIDIRECTIONAL && !strings.Contains(err.Error(), "mount --make-shared "+dir) {
			t.Errorf("%v does not say the remedy", err)
		}
	}
}
