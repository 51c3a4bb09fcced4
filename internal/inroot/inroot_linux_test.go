package inroot

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

// canary is the content of files that are outside of the root.
const canary = "of the host"

// newRoot returns a root filesystem, and a directory of the host beside it that holds
// the file "canary".
func newRoot(t *testing.T) (root, host string) {
	t.Helper()
	dir := t.TempDir()
	root, host = filepath.Join(dir, "root"), filepath.Join(dir, "host")
	for _, d := range []string{filepath.Join(root, "etc"), host} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(host, "canary"), canary)
	return root, host
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// within fails the test if f takes longer than a call that does not block.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it blocks")
	}
}

func read(root, path string) (string, error) {
	f, err := Open(root, path, 100)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

func TestOpenFollowsLinksInsideTheRootOnly(t *testing.T) {
	root, host := newRoot(t)
	write(t, filepath.Join(root, "etc/file"), "inside")
	write(t, filepath.Join(root, host, "canary"), "inside too")
	link(t, "/etc/file", filepath.Join(root, "absolute"))
	link(t, "../../../../../../etc/file", filepath.Join(root, "climbing"))
	link(t, filepath.Join(host, "canary"), filepath.Join(root, "to the host"))
	link(t, "../host/canary", filepath.Join(root, "beside"))
	link(t, "/", filepath.Join(root, "self"))
	link(t, "loop", filepath.Join(root, "loop"))
	link(t, "/proc/self/root"+host, filepath.Join(root, "magic"))
	for path, want := range map[string]string{
		"etc/file": "inside", "/etc/file": "inside", "../../etc/file": "inside",
		"absolute": "inside", "climbing": "inside", "self/self/absolute": "inside",
		"to the host": "inside too",
	} {
		if got, err := read(root, path); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
	for path, want := range map[string]error{
		"beside": fs.ErrNotExist, "absent": fs.ErrNotExist, "magic/canary": fs.ErrNotExist,
		"loop": container.ErrInvalid, "etc/file/x": container.ErrInvalid,
	} {
		if got, err := read(root, path); !errors.Is(err, want) {
			t.Errorf("%s: got %q, %v, want the error %v", path, got, err, want)
		}
	}
}

// A link of a procfs that is mounted in the root leads to files of whoever follows it.
func TestOpenFollowsNoMagicLinks(t *testing.T) {
	for _, path := range []string{"self/exe", "self/root/etc/passwd", "self/cwd/inroot_linux.go"} {
		if _, err := Open("/proc", path, 1<<30); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: error %v, want one of class ErrInvalid", path, err)
		}
	}
}

func TestOpenRefusesWhatIsNoRegularFileOfThatSize(t *testing.T) {
	root, _ := newRoot(t)
	write(t, filepath.Join(root, "exact"), strings.Repeat("x", 100))
	write(t, filepath.Join(root, "big"), strings.Repeat("x", 101))
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(root, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bad := []string{"big", "fifo", "socket", "etc", "/"}
	if os.Geteuid() == 0 {
		if err := unix.Mknod(filepath.Join(root, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
			t.Fatal(err)
		}
		bad = append(bad, "zero")
	}
	link(t, "fifo", filepath.Join(root, "link to fifo"))
	for _, path := range append(bad, "link to fifo") {
		within(t, func() {
			if _, err := Open(root, path, 100); !errors.Is(err, container.ErrInvalid) {
				t.Errorf("%s: error %v, want one of class ErrInvalid", path, err)
			}
		})
	}
	if got, err := read(root, "exact"); err != nil || len(got) != 100 {
		t.Errorf("a file of exactly the bound: %d bytes, %v", len(got), err)
	}
}

func TestOpenOfNoRoot(t *testing.T) {
	root, _ := newRoot(t)
	write(t, filepath.Join(root, "file"), "")
	for _, bad := range []string{filepath.Join(root, "absent"), filepath.Join(root, "file")} {
		if _, err := Open(bad, "x", 1); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("error %v does not name %s", err, bad)
		}
	}
}

func TestStatStaysInTheRoot(t *testing.T) {
	root, host := newRoot(t)
	write(t, filepath.Join(root, "real/file"), "text")
	write(t, filepath.Join(root, host, "canary"), "inside")
	link(t, "/real", filepath.Join(root, "absolute"))
	link(t, "../../../../../real", filepath.Join(root, "climbs"))
	link(t, host, filepath.Join(root, "host"))
	link(t, "circle", filepath.Join(root, "circle"))
	for path, size := range map[string]int64{"/real/file": 4, "absolute/file": 4, "/climbs/file": 4, "host/canary": 6, "../../real/file": 4} {
		if info, err := Stat(root, path); err != nil || info.Size() != size {
			t.Errorf("%s: %v, %v, want %d bytes", path, info, err, size)
		}
	}
	if _, err := Stat(root, "real/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	for _, path := range []string{"circle", "real/file/in"} {
		if _, err := Stat(root, path); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
