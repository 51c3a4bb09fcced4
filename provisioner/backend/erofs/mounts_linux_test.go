package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/moby/sys/mountinfo"
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

// mounted checks how many stacks are mounted, with how many layers together, and how many
// file systems these are of.
func (r *rig) mounted(stacks, layers, different int) {
	r.t.Helper()
	of := make(map[string]int)
	devices := make(map[string]bool)
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(r.mounts))
	for _, m := range mounts {
		of[m.FSType]++
		if m.FSType == "erofs" {
			devices[fmt.Sprint(m.Major, ":", m.Minor)] = true
		}
	}
	if err != nil || of["tmpfs"] != stacks || of["erofs"] != layers || len(devices) != different {
		r.t.Errorf("mounted are %v, of %d different layers, %v; want %d stacks with %d layers, %d different ones", of, len(devices), err, stacks, layers, different)
	}
	trees, err := os.ReadDir(r.mounts)
	trees = slices.DeleteFunc(trees, func(e os.DirEntry) bool { return !e.IsDir() })
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(trees) != stacks {
		r.t.Errorf("trees are %v, %v; want %d", trees, err, stacks)
	}
	// Whoever uses a stack is recorded.
	var users, recorded []string
	for _, tree := range trees {
		links, err := filepath.Glob(filepath.Join(r.mounts, tree.Name(), "users", "*"))
		if err != nil {
			r.t.Error(err)
		}
		for _, link := range links {
			users = append(users, filepath.Base(link)+" of "+tree.Name())
		}
	}
	links, err := filepath.Glob(filepath.Join(r.mounts, "*"))
	if err != nil {
		r.t.Error(err)
	}
	for _, link := range links {
		if stack, err := os.Readlink(link); err == nil {
			recorded = append(recorded, filepath.Base(link)+" of "+stack)
		}
	}
	for _, user := range users {
		if !slices.Contains(recorded, user) {
			r.t.Errorf("a user that is not recorded is %s; recorded are %q", user, recorded)
		}
	}
	if stacks == 0 && len(recorded) > 0 {
		r.t.Errorf("recorded are still %q", recorded)
	}
}

func (r *rig) nothingMounted() {
	r.t.Helper()
	r.mounted(0, 0, 0)
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
	r.mounted(1, 2, 2)
	r.provision("same", r.layers[0], r.layers[1])
	r.mounted(1, 2, 2)
	r.provision("b", r.layers[0], r.layers[2])
	r.mounted(2, 4, 3)
	r.destroy("a")
	r.mounted(2, 4, 3)
	r.reads("same", "file-1")
	r.destroy("same")
	r.mounted(1, 2, 2)
	r.reads("b", "file-0")
	r.destroy("b")
	r.nothingMounted()
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
	r.mounted(2, 2, 2)
	r.reads("old", "file-0")
	r.reads("new", "new")
	r.destroy("old")
	r.mounted(1, 1, 1)
	r.destroy("new")
	r.nothingMounted()
}

// reboot unmounts everything. Records on disk stay.
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
	r.mounted(1, 3, 3)
	r.destroy("a")
	r.mounted(1, 3, 3)
	r.destroy("b")
	r.nothingMounted()

	// The power cut has taken the record, too.
	r.provision("a", r.layers...)
	r.reboot()
	if err := os.Remove(r.Backend.mounts.record(r.rootfs("a"))); err != nil {
		t.Fatal(err)
	}
	r.destroy("a")
	r.provision("b", r.layers...)
	r.reads("b", "file-0")
	r.destroy("b")
	r.nothingMounted()
}

func TestWhatSomebodyHasUnmountedIsMountedAgain(t *testing.T) {
	r := newRig(t)
	r.provision("a", r.layers...)
	s, err := stackOf(r.layers)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(r.Backend.mounts.layer(s.name, s.layers[1].key), 0); err != nil {
		t.Fatal(err)
	}
	r.provision("b", r.layers...)
	r.mounted(1, 3, 3)
	for i := range r.layers {
		r.reads("a", fmt.Sprint("file-", i))
		r.reads("b", fmt.Sprint("file-", i))
	}
	r.destroy("a")
	r.destroy("b")
	r.nothingMounted()
}

// Whichever step is the last before the process is killed: Destroy removes everything, and
// one that is killed itself the next one. Others, with the same layers or with some of them,
// are as before, and can be made at any time.
func TestKilledAtAnyStep(t *testing.T) {
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
	r := newRig(t)
	provision := func() { _ = r.Provision(t.Context(), r.layers, r.rootfs("a"), r.dir) }
	destroy := func() { _, _ = r.Destroy(t.Context(), r.rootfs("a"), r.dir) }
	for _, other := range [][]backend.Layer{nil, r.layers[:1], r.layers} {
		asBefore := func() {
			t.Helper()
			if len(other) > 0 {
				r.mounted(1, len(other), len(other))
				r.reads("other", "file-0")
			} else {
				r.nothingMounted()
			}
		}
		if len(other) > 0 {
			r.provision("other", other...)
		}
		for n := 1; ; n++ {
			came := killed(n, provision)
			r.destroy("a")
			asBefore()
			if !came {
				break
			}
		}
		for n := 1; ; n++ {
			r.provision("a", r.layers...)
			came := killed(n, destroy)
			r.destroy("a")
			asBefore()

			r.provision("a", r.layers...)
			killed(n, destroy)
			r.provision("b", r.layers...)
			r.destroy("a")
			r.reads("b", "file-2")
			r.destroy("b")
			asBefore()
			if !came {
				break
			}
		}
		r.destroy("other")
		r.nothingMounted()
	}
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
	r.nothingMounted()
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
