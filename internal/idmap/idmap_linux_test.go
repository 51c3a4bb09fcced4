package idmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/mount"
	"berth/internal/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

var ids = container.IDRange{Start: 3_000_000_000, Size: 65536}

// The namespace outlives the process that it was made with, of which nothing is left.
func TestANamespaceMapsAMount(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.FileSystem(t, "ext4")
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chown(file, 33, 44), os.Mkdir(filepath.Join(dir, "at"), 0o755)); err != nil {
		t.Fatal(err)
	}
	namespace, err := Namespace(ids)
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	children, err := os.ReadFile("/proc/thread-self/children")
	if err != nil || len(bytes.TrimSpace(children)) > 0 {
		t.Errorf("processes are left: %s, %v", children, err)
	}
	d, err := mount.Clone(file, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Map(int(namespace.Fd()), true); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.FD(), &st); err != nil || st.Uid != ids.OnHost(33) || st.Gid != ids.OnHost(44) {
		t.Errorf("it is of %d:%d, %v", st.Uid, st.Gid, err)
	}
	if err := d.Map(int(namespace.Fd()), true); !errors.Is(err, mount.ErrCannotMap) && err == nil {
		t.Errorf("a second time: %v", err)
	}
	proc, err := mount.Clone("/proc/self/status", false)
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if err := proc.Map(int(namespace.Fd()), false); !errors.Is(err, mount.ErrCannotMap) {
		t.Errorf("of /proc: %v", err)
	}
}

// In a user namespace that may have no more inside.
func TestWithoutUserNamespacesTheErrorSaysSo(t *testing.T) {
	mounttest.RequireRoot(t)
	if os.Getenv("IN_NAMESPACE") == "" {
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c",
			"echo 0 >/proc/sys/user/max_user_namespaces && exec "+os.Args[0]+" -test.run "+t.Name()+"$")
		cmd.Env = append(os.Environ(), "IN_NAMESPACE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	_, err := Namespace(ids)
	if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "max_user_namespaces") {
		os.Stderr.WriteString("the error is " + fmt.Sprint(err))
		os.Exit(1)
	}
	os.Exit(0)
}

func BenchmarkNamespace(b *testing.B) {
	for b.Loop() {
		namespace, err := Namespace(ids)
		if err != nil {
			b.Fatal(err)
		}
		namespace.Close()
	}
}
