package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// faults: the n-th call to the file system fails, for every n. What a backend calls
// success is the whole truth, what it calls an error names the cause, and neither stands
// against what comes next.
var faults = []check{
	{"whichever step of Provision fails, it says so or succeeds in truth, and Destroy removes what is left", nil, checkProvisionFaults},
	{"whichever step of Destroy fails, it says so or succeeds in truth, and the next one removes what is left", nil, checkDestroyFaults},
	{"whichever step Provision is interrupted at, it says so or succeeds in truth, and Destroy removes what is left", nil, checkCancelledSteps},
}

// causes are why steps fail: all of them on one file system, on others a single one unless
// the tests are to take long. A call that a signal interrupts is made again.
func (s *suite) causes() []error {
	causes := []error{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.EINTR, disk.ErrShort}
	if s.FileSystem != usualFileSystem && os.Getenv("BERTH_TEST_SOAK") == "" {
		return causes[:1]
	}
	return causes
}

// faultyLayers have a bit of everything.
func (s *suite) faultyLayers() []Tree {
	base := Tree{Dir(".").perm(0o711).xattr("user.root", "1"), Dir("i").perm(0o700).owner(5, 6).xattr("user.i", "1"), Dir("d").perm(0o2755).owner(1, 2).xattr("user.x", "1").xattr(defaultACL, someACL), File("d/a", "a").perm(0o4755).owner(3, 4), hardLink("d/b", "d/a"),
		Dir("hidden"), File("hidden/a", ""), Dir("opaque"), File("opaque/a", ""), File("replaced", ""), symlink("link", "d").date(1, 1), fifo("fifo").xattr("trusted.x", "1"),
		sparse("sparse", 1<<19, [2]int{5000, 5000}, [2]int{1 << 18, 1}), File("large", pattern(300_000))}
	if s.MaxLayers == 1 {
		return []Tree{base}
	}
	return []Tree{base,
		{implied("."), implied("i"), File("i/a", ""), implied("d"), File("d/c", "c"), whiteout("hidden"), opaque("opaque"), File("opaque/b", ""), Dir("replaced"), File("replaced/a", ""), File("link", "")},
		{implied("."), Dir("d").perm(0o700), whiteout("d/c")}}
}

// failing makes the n-th step fail, and reports how many there were.
func failing(n int, cause error, do func()) (steps int) {
	return at(n, func() error { return cause }, do)
}

// at has something happen at the n-th step of do, and reports how many there were. It may be
// any goroutine that takes it.
func at(n int, happen func() error, do func()) (steps int) {
	var taken atomic.Int32
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Op != disk.Reached && int(taken.Add(1)) == n {
			return happen()
		}
		return nil
	})
	defer restore()
	do()
	return int(taken.Load())
}

// truthful checks what came of a step that failed.
func truthful(t *testing.T, n int, cause, err error) {
	t.Helper()
	switch {
	case cause == unix.EINTR && err != nil:
		t.Errorf("step %d was interrupted and not made again: %v", n, err)
	case err != nil && !errors.Is(err, cause) && !(cause == disk.ErrShort && errors.Is(err, unix.ENOSPC)):
		t.Errorf("step %d: the error does not say %v: %v", n, cause, err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// eachFault calls check for each step and each cause, until there are fewer steps than
// the number of the step. What check opens, it closes.
func (s *suite) eachFault(t *testing.T, check func(t *testing.T, n int, cause error) (steps int)) {
	for _, cause := range s.causes() {
		t.Run(fmt.Sprint(cause), func(t *testing.T) {
			check(t, 0, cause) // opens what stays open for good
			open := openFiles(t)
			n := 1
			for check(t, n, cause) >= n && !t.Failed() {
				n++
			}
			t.Logf("%d steps", n-1)
			if now := openFiles(t); now != open {
				t.Errorf("%d files are open, it were %d", now, open)
			}
		})
	}
}

func checkProvisionFaults(t *testing.T, s *suite) {
	trees := s.faultyLayers()
	layers := s.place(t).layers(trees...)
	p := s.place(t)
	// What is handed down from here has to be removed, which may fail, too.
	if err := unix.Setxattr(p.backendDir(), defaultACL, []byte(someACL), 0); err != nil {
		t.Fatal(err)
	}
	rootfs := p.rootfs("rootfs")
	s.eachFault(t, func(t *testing.T, n int, cause error) int {
		p := &place{t: t, backend: p.backend, dir: p.dir, shared: p.shared}
		var err error
		steps := failing(n, cause, func() {
			err = p.backend.Provision(context.Background(), layers, rootfs, p.backendDir())
		})
		truthful(t, n, cause, err)
		if err == nil {
			p.shows(rootfs, stacked(trees...))
		}
		p.destroyAll(rootfs)
		return steps
	})
	p.destroy(p.provision(layers...), true)
}

// destroyAll destroys what there may be of a root filesystem.
func (p *place) destroyAll(rootfs string) {
	p.t.Helper()
	if _, err := p.backend.Destroy(context.Background(), rootfs, p.backendDir()); err != nil {
		p.t.Error(err)
	}
	p.nothingLeft()
}

func checkDestroyFaults(t *testing.T, s *suite) {
	layers := s.place(t).layers(Tree{Dir("d"), File("d/a", "a"), Dir("d/e"), File("d/e/b", ""), symlink("l", "d")})
	p := s.place(t)
	rootfs := p.rootfs("rootfs")
	s.eachFault(t, func(t *testing.T, n int, cause error) int {
		p := &place{t: t, backend: p.backend, dir: p.dir, shared: p.shared}
		if err := p.backend.Provision(context.Background(), layers, rootfs, p.backendDir()); err != nil {
			t.Fatal(err)
		}
		if s.Writable {
			freeze(t, rootfs)
		}
		var existed bool
		var err error
		steps := failing(n, cause, func() {
			existed, err = p.backend.Destroy(context.Background(), rootfs, p.backendDir())
		})
		truthful(t, n, cause, err)
		if err == nil {
			if !existed {
				t.Errorf("step %d: Destroy returned false", n)
			}
			p.nothingLeft()
		}
		p.destroyAll(rootfs)
		return steps
	})
}

// freeze leaves what a container may leave: a mount, and a file that cannot be removed.
func freeze(t *testing.T, rootfs string) {
	t.Helper()
	err := errors.Join(
		os.WriteFile(rootfs+"/d/frozen", nil, 0o600),
		os.Mkdir(rootfs+"/mounted", 0o700),
		unix.Mount(rootfs+"/d/e", rootfs+"/mounted", "", unix.MS_BIND, ""))
	if err == nil {
		err = setFlag(rootfs+"/d/frozen", immutableFlag)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// checkCancelledSteps: a step is a moment, too.
func checkCancelledSteps(t *testing.T, s *suite) {
	trees := s.faultyLayers()
	layers := s.place(t).layers(trees...)
	p := s.place(t)
	for n, steps := 1, 1; n <= steps && !t.Failed(); n++ {
		rootfs := p.rootfs(fmt.Sprint(n))
		ctx, cancel := context.WithCancelCause(context.Background())
		var err error
		steps = at(n, func() error { cancel(errInterrupted); return nil }, func() {
			err = p.backend.Provision(ctx, layers, rootfs, p.backendDir())
		})
		cancel(nil)
		switch {
		case err == nil:
			p.shows(rootfs, stacked(trees...))
		case !errors.Is(err, errInterrupted):
			t.Errorf("step %d: the error is %v", n, err)
		}
		p.destroyAll(rootfs)
	}
}
