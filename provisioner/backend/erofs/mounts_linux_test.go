package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
	"berth/state"
)

// rig is a backend with layers.
type rig struct {
	*Backend
	t      *testing.T
	root   string
	mounts string
	dir    string
	layers []backend.Layer
}

func newRig(t *testing.T) *rig {
	root := mounttest.FileSystem(t, "ext4")
	r := &rig{t: t, root: root, mounts: filepath.Join(root, "mounts"), dir: filepath.Join(root, "backend")}
	r.Backend = New(r.mounts)
	for i := range 3 {
		layer := filepath.Join(root, fmt.Sprint("layer-", i), "erofs")
		if err := os.Mkdir(filepath.Dir(layer), 0o700); err != nil {
			t.Fatal(err)
		}
		r.layers = append(r.layers, backendtest.Tree{backendtest.File(fmt.Sprint("file-", i), "content")}.WriteEROFS(t, layer))
	}
	return r
}

func (r *rig) rootfs(name string) string { return state.Rootfs(r.dir, name) }

func (r *rig) provision(name string, layers ...backend.Layer) {
	r.t.Helper()
	if err := r.Provision(r.t.Context(), layers, r.rootfs(name), r.dir); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) destroy(name string) {
	r.t.Helper()
	if _, err := r.Destroy(context.Background(), r.rootfs(name), r.dir); err != nil {
		r.t.Error(err)
	}
}

// mounted checks how many layers are mounted.
func (r *rig) mounted(want int) {
	r.t.Helper()
	points, err := mounttest.Points(r.mounts)
	if err != nil || len(points) != want {
		r.t.Errorf("mounted are %q, %v; want %d", points, err, want)
	}
	entries, err := os.ReadDir(r.mounts)
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) != want {
		r.t.Errorf("directories of mounts are %v, %v; want %d", entries, err, want)
	}
}

func (r *rig) reads(name, file string) {
	r.t.Helper()
	if content, err := os.ReadFile(filepath.Join(r.rootfs(name), file)); string(content) != "content" {
		r.t.Errorf("%s in %s is %q, %v", file, name, content, err)
	}
}

func TestALayerIsMountedOnceAndAsLongAsItIsUsed(t *testing.T) {
	r := newRig(t)
	r.provision("a", r.layers[0], r.layers[1])
	r.mounted(2)
	r.provision("b", r.layers[0], r.layers[2])
	r.mounted(3)
	r.destroy("a")
	r.mounted(2)
	r.reads("b", "file-0")
	r.destroy("b")
	r.mounted(0)
}

func TestACopyThatTookThePlaceOfAnotherIsMountedItself(t *testing.T) {
	r := newRig(t)
	path := r.layers[0].Path
	r.provision("old", r.layers[0])
	if err := os.Rename(path, path+"-superseded"); err != nil {
		t.Fatal(err)
	}
	layer := backendtest.Tree{backendtest.File("new", "content")}.WriteEROFS(t, path)
	r.provision("new", layer)
	r.mounted(2)
	r.reads("old", "file-0")
	r.reads("new", "new")
	r.destroy("old")
	r.mounted(1)
	r.destroy("new")
	r.mounted(0)
}

// reboot unmounts everything. Records stay.
func (r *rig) reboot() {
	r.t.Helper()
	if err := errors.Join(mounttest.DetachBelow(r.dir), mounttest.DetachBelow(r.mounts)); err != nil {
		r.t.Fatal(err)
	}
}

func TestAfterAReboot(t *testing.T) {
	r := newRig(t)
	r.provision("a", r.layers...)
	r.reboot()
	r.provision("b", r.layers...)
	r.reads("b", "file-0")
	r.mounted(3)
	r.destroy("a")
	r.mounted(3)
	r.destroy("b")
	r.mounted(0)

	// The record is one that a power cut has torn.
	r.provision("a", r.layers...)
	r.provision("b", r.layers[0])
	if err := os.Truncate(recordPath(r.rootfs("a"), r.dir), 10); err != nil {
		t.Fatal(err)
	}
	r.reboot()
	r.destroy("a")
	r.used(1)
	r.destroy("b")
	r.mounted(0)
}

// used checks that so many layers have users.
func (r *rig) used(want int) {
	r.t.Helper()
	users, err := filepath.Glob(filepath.Join(r.mounts, "*", "users", "*"))
	if err != nil || len(users) != want {
		r.t.Errorf("users are %q, %v; want %d", users, err, want)
	}
}

// Whichever step is the last before the process is killed: Destroy removes everything, and
// one that is killed itself the next one.
func TestKilledAtAnyStep(t *testing.T) {
	r := newRig(t)
	// killed does what a process does until it is killed at the n-th step, and reports
	// whether it came as far.
	killed := func(n int, do func()) bool {
		var taken atomic.Int32
		restore := disk.Intercept(func(disk.Step) error {
			if int(taken.Add(1)) >= n {
				return unix.EIO
			}
			return nil
		})
		defer restore()
		do()
		return int(taken.Load()) >= n
	}
	r.provision("other", r.layers[0])
	provision := func() { _ = r.Provision(t.Context(), r.layers, r.rootfs("a"), r.dir) }
	destroy := func() { _, _ = r.Destroy(t.Context(), r.rootfs("a"), r.dir) }
	for n := 1; killed(n, provision); n++ {
		r.destroy("a")
		r.mounted(1)
	}
	r.destroy("a")
	for n := 1; ; n++ {
		r.provision("a", r.layers...)
		came := killed(n, destroy)
		r.destroy("a")
		r.mounted(1)
		if !came {
			break
		}
	}
	r.reads("other", "file-0")
	r.destroy("other")
	r.mounted(0)
}

// What a process of TestSeveralProcesses is told.
const processRoot, processName = "BERTH_TEST_EROFS_ROOT", "BERTH_TEST_EROFS_NAME"

// TestSeveralProcesses: containers start and stop in several processes, on the same layers.
func TestSeveralProcesses(t *testing.T) {
	if root := os.Getenv(processRoot); root != "" {
		startAndStop(t, root, os.Getenv(processName))
		return
	}
	r := newRig(t)
	var all []*exec.Cmd
	for i := range 4 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSeveralProcesses$")
		cmd.Env = append(os.Environ(), processRoot+"="+r.root, fmt.Sprint(processName, "=", i))
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if t.Failed() {
				t.Log(out.String())
			}
		}()
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	r.mounted(0)
}

func startAndStop(t *testing.T, root, name string) {
	b, dir := New(filepath.Join(root, "mounts")), filepath.Join(root, "backend-"+name)
	var layers []backend.Layer
	for i := range 3 {
		layers = append(layers, backend.Layer{Path: filepath.Join(root, fmt.Sprint("layer-", i), "erofs")})
	}
	rootfs := state.Rootfs(dir, "rootfs")
	for i := range 50 {
		if err := b.Provision(t.Context(), layers[i%3:], rootfs, dir); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(rootfs + "/file-2"); string(content) != "content" {
			t.Errorf("the file is %q, %v", content, err)
		}
		if _, err := b.Destroy(t.Context(), rootfs, dir); err != nil {
			t.Fatal(err)
		}
	}
}
