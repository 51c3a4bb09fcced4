//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/launcher/plan"
)

// newRoot returns a root on a plain directory, and a directory of the host beside it.
func newRoot(t *testing.T) (r *root, dir, host string) {
	t.Helper()
	top := t.TempDir()
	dir, host = filepath.Join(top, "root"), filepath.Join(top, "host")
	for _, d := range []string{dir, host} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &root{fd: fd}, dir, host
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// assertEmpty fails the test if something was made on the host.
func assertEmpty(t *testing.T, host string) {
	t.Helper()
	if entries, err := os.ReadDir(host); err != nil || len(entries) > 0 {
		t.Errorf("on the host: %v, %v", entries, err)
	}
}

func TestMountPointsAreMadeInsideTheRoot(t *testing.T) {
	for name, c := range map[string]struct {
		link   func(t *testing.T, dir, host string)
		target string
		want   string // in the container
	}{
		"nothing there":            {func(*testing.T, string, string) {}, "/a/b/c", "/a/b/c"},
		"a name that is not clean": {func(*testing.T, string, string) {}, "/a//b/../c/", "/a/c"},
		"the root":                 {func(*testing.T, string, string) {}, "/", "/"},
		"a link to the root":       {func(t *testing.T, dir, _ string) { symlink(t, "/", dir+"/a") }, "/a", "/"},
		"an absolute link":         {func(t *testing.T, dir, _ string) { symlink(t, "/", dir+"/a") }, "/a/b", "/b"},
		"a link that climbs":       {func(t *testing.T, dir, _ string) { symlink(t, "../../../..", dir+"/a") }, "/a/b", "/b"},
		"a link to the host":       {func(t *testing.T, dir, host string) { symlink(t, host, dir+"/a"); os.MkdirAll(dir+host, 0o755) }, "/a/b", "HOST/b"},
		"the host's root in its path": {func(t *testing.T, dir, _ string) {
			symlink(t, "/proc/1/root", dir+"/a")
			os.MkdirAll(dir+"/proc/1/root", 0o755)
		}, "/a/b", "/proc/1/root/b"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, directory := range []bool{true, false} {
				r, dir, host := newRoot(t)
				c.link(t, dir, host)
				fd, err := r.make(c.target, directory, false)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				want := strings.Replace(c.want, "HOST", host, 1)
				if place, err := r.place(fd); err != nil || place != want {
					t.Errorf("made %s, %v, want %s", place, err, want)
				}
				if isDir, err := isDirectory(fd); err != nil || isDir != directory && want != "/" && !strings.HasSuffix(c.target, "/") {
					t.Errorf("a directory: %v, %v, want %v", isDir, err, directory)
				}
				assertEmpty(t, host)
			}
		})
	}
}

func TestLinksThatLeadNowhereAreAnError(t *testing.T) {
	r, dir, host := newRoot(t)
	symlink(t, filepath.Join(host, "new"), dir+"/a")
	symlink(t, "b", dir+"/b")
	for _, target := range []string{"/a", "/a/x", "/b", "/b/x"} {
		fd, err := r.make(target, true, false)
		if err == nil {
			unix.Close(fd)
			t.Errorf("%s was made", target)
		} else if !errors.Is(err, unix.ELOOP) && !strings.Contains(err.Error(), "leads to nothing") {
			t.Errorf("%s: error %v does not say why", target, err)
		}
	}
	assertEmpty(t, host)
}

func TestFixedPlacesHaveNoLinks(t *testing.T) {
	r, dir, host := newRoot(t)
	symlink(t, host, dir+"/proc")
	symlink(t, host, dir+"/a/sys")
	symlink(t, "/", dir+"/b")
	symlink(t, "absent", dir+"/dev")
	for _, target := range []string{"/proc", "/a/sys", "/a/sys/x", "/b", "/b/x", "/dev", "/dev/pts"} {
		fd, err := r.make(target, true, true)
		if err == nil {
			unix.Close(fd)
			t.Errorf("%s was made", target)
		} else if !errors.Is(err, unix.ELOOP) || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("%s: error %v does not say why", target, err)
		}
	}
	assertEmpty(t, host)
	if fd, err := r.make("/a/b/c", true, true); err != nil {
		t.Error(err)
	} else {
		unix.Close(fd)
	}
}

func TestMagicLinksAreNotFollowed(t *testing.T) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r := &root{fd: fd}
	if fd, err := r.open("/proc/self/root/etc", false); !errors.Is(err, unix.ELOOP) {
		unix.Close(fd)
		t.Errorf("error %v, want ELOOP", err)
	}
}

func TestALinkMustNotLeadAMountToAFixedPlace(t *testing.T) {
	for link, want := range map[string]bool{"/": false, "..": false, "/proc": false, "/proc/sys": false, "../proc": false, "/proc/..": false, "/data": true, "/procedures": true} {
		r, dir, _ := newRoot(t)
		r.fixed = []string{"/proc"}
		for _, d := range []string{"/proc/sys", "/data", "/procedures"} {
			if err := os.MkdirAll(dir+d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		symlink(t, link, dir+"/mnt")
		fd, err := r.make("/mnt", true, false)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := r.check(fd, plan.Mount{Target: "/mnt"}, true); (err == nil) != want {
			t.Errorf("a link to %s: %v", link, err)
		}
	}
	// Without a link it is what the plan says.
	r, _, _ := newRoot(t)
	r.fixed = []string{"/dev"}
	fd, err := r.make("/dev/shm", true, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := r.check(fd, plan.Mount{Target: "/dev/shm"}, true); err != nil {
		t.Error(err)
	}
	if err := r.check(fd, plan.Mount{Target: "/dev/shm"}, false); err == nil {
		t.Error("a file was put on a directory")
	}
}

func TestAttributes(t *testing.T) {
	for flags, want := range map[plan.Flags]mount.Attr{
		0: 0, plan.ReadOnly: mount.ReadOnly, plan.NoSuid | plan.NoDev | plan.NoExec: mount.NoSuid | mount.NoDev | mount.NoExec,
	} {
		if got := attributes(flags); got != want {
			t.Errorf("%b: %b, want %b", flags, got, want)
		}
	}
}

func TestOpenNullWantsTheNullDevice(t *testing.T) {
	r, dir, _ := newRoot(t)
	if err := os.Mkdir(dir+"/dev", 0o755); err != nil {
		t.Fatal(err)
	}
	try := func(what string) {
		t.Helper()
		if fd, err := r.openNull(); err == nil {
			unix.Close(fd)
			t.Errorf("%s was taken for the null device", what)
		}
	}
	try("nothing")
	symlink(t, "/dev/zero", dir+"/dev/null")
	try("a link")
	os.Remove(dir + "/dev/null")
	os.WriteFile(dir+"/dev/null", nil, 0o666)
	try("a file")
	if os.Geteuid() == 0 {
		os.Remove(dir + "/dev/null")
		if err := unix.Mknod(dir+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
			t.Fatal(err)
		}
		try("the zero device")
	}
}

func TestOpenLeaksNoDescriptors(t *testing.T) {
	r, dir, _ := newRoot(t)
	symlink(t, "b", dir+"/b")
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for n := range 20 {
		if fd, err := r.make("/x/"+strconv.Itoa(n)+"/y", true, n%2 == 0); err == nil {
			unix.Close(fd)
		}
		r.make("/b/x", true, true)
		r.openNull()
		r.mask([]string{"/absent"})
		r.readOnly("/absent")
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}

// What is mounted in the place of a link of the image leads nowhere.
func TestLinksAreReplaced(t *testing.T) {
	r, dir, host := newRoot(t)
	symlink(t, "/run/absent/resolv.conf", dir+"/etc/resolv.conf")
	symlink(t, host, dir+"/etc/hosts")
	symlink(t, "/etc", dir+"/elsewhere")
	if err := os.WriteFile(dir+"/etc/hostname", []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/etc/resolv.conf", "/etc/hosts", "/elsewhere/hostname", "/absent/hosts"} {
		if err := r.removeLink(target); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	for name, there := range map[string]bool{"resolv.conf": false, "hosts": false, "hostname": true} {
		if _, err := os.Lstat(dir + "/etc/" + name); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.fixed = []string{"/proc"}
	symlink(t, "x", dir+"/proc/link")
	symlink(t, "/proc", dir+"/lib")
	if err := r.removeLink("/lib/link"); err == nil || !strings.Contains(err.Error(), "the kernel's") {
		t.Errorf("a link that leads to the kernel's files: %v", err)
	}
	assertEmpty(t, host)
}
