//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/internal/mount/mounttest"
	"berth/launcher/plan"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// In the host's mount namespace nothing is mounted, whatever the plan says.
func TestTheHostsMountsStayAsTheyAre(t *testing.T) {
	mounttest.RequireRoot(t)
	// On a thread with mounts of its own, which ends with the test: others mount on the host
	// at the same time.
	runtime.LockOSThread()
	if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), mount.MakePrivate("/")); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]plan.Plan{
		"a root":           {Rootfs: "/rootfs"},
		"a mount":          {Mounts: []plan.Mount{{Target: "/proc", Source: "proc", Type: "proc"}}},
		"a volume":         {Volumes: []plan.Mount{{Target: "/mnt", Source: "/etc"}}},
		"a mask":           {Masked: []string{"/proc/kcore"}},
		"a read-only path": {ReadOnly: []string{"/proc/sys"}},
		"a read-only root": {ReadOnlyRootfs: true},
	} {
		before, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		p.HostMounts = true
		if err := setUp(p, plan.Files{}, nil); err == nil || !strings.Contains(err.Error(), "the host's") {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile("/proc/thread-self/mountinfo"); err != nil || string(after) != string(before) {
			t.Errorf("%s: the mounts were\n%s\nand are\n%s", name, before, after)
		}
	}
}

// As on a kernel that clones only what is mounted.
func TestAFileOfAFileSystemThatIsMountedForAMoment(t *testing.T) {
	mounttest.RequireRoot(t)
	fs, err := mount.New("ramfs", "secret", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	fd, err := unix.Openat(fs.FD(), "content", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o400)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "content")
	defer file.Close()
	if _, err := file.WriteString("secret"); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	clone, err := cloneMounted(fs, fd)
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	if after, err := os.ReadFile("/proc/thread-self/mountinfo"); err != nil || string(after) != string(before) {
		t.Errorf("the mounts were\n%s\nand are\n%s", before, after)
	}
	target := filepath.Join(mounttest.Dir(t), "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := clone.Attach(target); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(target, unix.MNT_DETACH)
	if data, err := os.ReadFile(target); err != nil || string(data) != "secret" {
		t.Errorf("%q, %v", data, err)
	}
}
