package provisioner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/disk"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/store"
)

// destroyedContainers returns whose root filesystems the fake has destroyed, in order.
func (b *bench) destroyedContainers(t *testing.T) (ids []string) {
	t.Helper()
	for _, rootfs := range b.fake.destroyed {
		at, err := filepath.Rel(b.Paths.Containers(), rootfs)
		if err != nil {
			t.Fatal(err)
		}
		at, _, _ = strings.Cut(at, "/backends/")
		ids = append(ids, strings.ReplaceAll(at, "/containers/", "."))
	}
	b.fake.destroyed = nil
	return ids
}

func TestChildrenGoFirst(t *testing.T) {
	b := newBench(t, "fake")
	for _, at := range []string{"p", "p.c", "p.c.g", "p.d", "q"} {
		b.provision(t, at, "one")
	}
	if want := filepath.Join(b.Paths.Root(), "containers/p/containers/c/containers/g"); b.Paths.Container(id(t, "p.c.g")) != want {
		t.Errorf("a grandchild is in %s, want %s", b.Paths.Container(id(t, "p.c.g")), want)
	}
	b.wantContainers(t, "p", "p.c", "p.c.g", "p.d", "q")
	b.wantDestroyed(t, "p.d", true)
	b.wantContainers(t, "p", "p.c", "p.c.g", "q")
	b.destroyedContainers(t)
	b.wantDestroyed(t, "p", true)
	if got, want := b.destroyedContainers(t), []string{"p.c.g", "p.c", "p"}; !slices.Equal(got, want) {
		t.Errorf("destroyed in the order %q, want %q", got, want)
	}
	b.wantContainers(t, "q")
}

// A parent without a root filesystem is there for its child only.
func TestParentThatIsOnlyADirectory(t *testing.T) {
	b := newBench(t, "overlay")
	wantFile(t, b.provision(t, "p.c", "one").Path, "one")
	b.wantDestroyed(t, "p", true)
	b.wantContainers(t)
}

func TestAChildThatFailsSparesItsParentAlone(t *testing.T) {
	b := newBench(t, "fake")
	for _, at := range []string{"p", "p.a", "p.b", "p.c"} {
		b.provision(t, at, "one")
	}
	stuck := errors.New("stuck")
	b.fake.onDestroy = func(rootfs string) error {
		if strings.HasPrefix(rootfs, b.Paths.Container(id(t, "p.b"))) {
			return stuck
		}
		return nil
	}
	for range 2 {
		existed, err := b.Destroy(t.Context(), id(t, "p"))
		wantError(t, err, stuck, "destroy the root filesystems of p.b: ")
		if !existed {
			t.Error("nothing existed")
		}
		b.wantContainers(t, "p", "p.b")
	}
	if len(b.record(t, "p.b")) != 1 || len(b.record(t, "p")) != 1 {
		t.Error("the record went before its root filesystem")
	}
	b.fake.onDestroy = nil
	b.wantDestroyed(t, "p", true)
	b.wantContainers(t)
}

func TestDestroyDetachesWhatOthersMounted(t *testing.T) {
	b := newBench(t, "copy")
	rootfs := b.provision(t, "c", "one")
	precious := filepath.Join(t.TempDir(), "volume")
	write(t, filepath.Join(precious, "data"), "x")
	for _, target := range []string{filepath.Join(rootfs.Path, "mnt"), filepath.Join(b.Paths.Container(id(t, "c")), "elsewhere")} {
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		clone, err := mount.Clone(precious, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(clone.Attach(target), clone.Close()); err != nil {
			t.Fatal(err)
		}
	}
	open, err := os.Open(filepath.Join(rootfs.Path, "mnt", "data")) // busy
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	b.wantDestroyed(t, "c", true)
	b.wantContainers(t)
	if _, err := os.Stat(filepath.Join(precious, "data")); err != nil {
		t.Errorf("the volume was emptied: %v", err)
	}
}

// blocked is a Provision that waits in the backend.
type blocked struct {
	inside chan struct{} // closed once it waits
	goOn   chan struct{} // lets it go on after it was cancelled
	result chan error
}

func (b *bench) block(t *testing.T, at string, then error) *blocked {
	t.Helper()
	p := &blocked{make(chan struct{}), make(chan struct{}), make(chan error, 1)}
	var ended atomic.Bool
	b.fake.onMake = func(ctx context.Context, rootfs string) error {
		defer ended.Store(true)
		close(p.inside)
		<-ctx.Done()
		<-p.goOn
		// What a Destroy that did not wait has removed is there again.
		return errors.Join(then, os.MkdirAll(filepath.Join(rootfs, "late"), 0o755))
	}
	b.fake.onDestroy = func(string) error {
		if !ended.Load() {
			t.Error("destroyed while it was made")
		}
		return nil
	}
	go func() {
		_, err := b.Provision(t.Context(), id(t, at), b.Image("one"))
		p.result <- err
	}()
	<-p.inside
	b.fake.onMake = nil // seen by later ones only
	return p
}

// destroying starts a Destroy and returns its result.
func (b *bench) destroying(ctx context.Context, t *testing.T, at string) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		existed, err := b.Destroy(ctx, id(t, at))
		if err == nil && !existed {
			err = errNothing
		}
		result <- err
	}()
	return result
}

var errNothing = errors.New("nothing existed")

func TestDestroyCancelsAndAwaitsAProvision(t *testing.T) {
	for _, c := range []struct{ name, provisioned, destroyed string }{
		{"of the container", "c", "c"},
		{"of a child", "c.child", "c"},
		{"of a grandchild", "c.child.grandchild", "c"},
	} {
		// Whatever the backend makes of its cancelled context.
		for _, then := range []error{context.Canceled, errors.New("something else"), nil} {
			t.Run(c.name, func(t *testing.T) {
				b := newBench(t, "fake")
				p := b.block(t, c.provisioned, then)
				done := b.destroying(t.Context(), t, c.destroyed)
				// The backend waits for its context, so this proves that it was cancelled ...
				p.goOn <- struct{}{}
				wantError(t, <-p.result, container.ErrFailedPrecondition, "provision "+c.provisioned+": ", "the container is being destroyed")
				if err := <-done; err != nil {
					t.Errorf("destroy: %v", err)
				}
				// ... and this that Destroy has waited: nothing was made after it.
				b.wantContainers(t)
				if got := b.destroyedContainers(t); !slices.Equal(got, []string{c.provisioned}) {
					t.Errorf("destroyed %q", got)
				}
				b.provision(t, c.provisioned, "one")
			})
		}
	}
}

func TestDestroyWaitsNoLongerThanItsContext(t *testing.T) {
	b := newBench(t, "fake")
	p := b.block(t, "c", nil)
	impatient := errors.New("impatient")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(impatient)
	_, err := b.Destroy(ctx, id(t, "c"))
	wantError(t, err, impatient, "destroy the root filesystems of c: ")
	close(p.goOn)
	wantError(t, <-p.result, container.ErrFailedPrecondition)
	b.wantDestroyed(t, "c", true)
}

// waitingStore has no image, and waits in Get.
type waitingStore struct {
	store.Store
	inside chan struct{}
}

func (s *waitingStore) Use(context.Context, *v1.Image, layer.Form, func(store.Record) error) (*store.Image, []layer.Info, error) {
	return nil, nil, nil
}

func (s *waitingStore) Get(ctx context.Context, _ *v1.Image, _ layer.Form) (*store.Image, error) {
	close(s.inside)
	<-ctx.Done()
	return nil, ctx.Err()
}

// While an image is pulled, there is no directory yet that Destroy could find.
func TestDestroyInterruptsAPull(t *testing.T) {
	for _, destroyed := range []string{"p.c", "p"} {
		b := newBench(t, "fake")
		waiting := &waitingStore{b.Stores[v1.Image_DOCKER], make(chan struct{})}
		b.Stores[v1.Image_DOCKER] = waiting
		result := make(chan error, 1)
		go func() {
			_, err := b.Provision(t.Context(), id(t, "p.c"), b.Image("one"))
			result <- err
		}()
		<-waiting.inside
		b.wantDestroyed(t, destroyed, false)
		wantError(t, <-result, container.ErrFailedPrecondition, "provision p.c: ", "being destroyed")
		b.wantContainers(t)
	}
}

func TestOneAtATimeForAContainer(t *testing.T) {
	b := newBench(t, "fake")
	p := b.block(t, "c", nil)
	_, err := b.Provision(t.Context(), id(t, "c"), b.Image("one"))
	wantError(t, err, container.ErrFailedPrecondition, "provision c: ", "another provisioning is under way")
	b.provision(t, "c.child", "one")
	b.provision(t, "cc", "one")
	close(p.goOn)
	b.wantDestroyed(t, "c", true)
	wantError(t, <-p.result, container.ErrFailedPrecondition)
	b.wantContainers(t, "cc")
}

func TestNothingIsProvisionedWhereADestroyIsUnderWay(t *testing.T) {
	b := newBench(t, "fake")
	b.provision(t, "c", "one")
	inside, goOn := make(chan struct{}), make(chan struct{})
	b.fake.onDestroy = func(string) error {
		close(inside)
		<-goOn
		return nil
	}
	first := b.destroying(t.Context(), t, "c")
	<-inside
	for _, at := range []string{"c", "c.child", "c.child.grandchild"} {
		_, err := b.Provision(t.Context(), id(t, at), b.Image("one"))
		wantError(t, err, container.ErrFailedPrecondition, "provision "+at+": ", "being destroyed")
	}
	b.provision(t, "other", "one")

	// Others who destroy it, or a part of it, wait, and then find nothing.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errNothing)
	for _, at := range []string{"c", "c.child"} {
		_, err := b.Destroy(ctx, id(t, at))
		wantError(t, err, errNothing, "destroy the root filesystems of "+at+": ")
	}
	second := b.destroying(t.Context(), t, "c")
	close(goOn)
	if err := <-first; err != nil {
		t.Errorf("destroy: %v", err)
	}
	wantError(t, <-second, errNothing)
	b.wantContainers(t, "other")
}

func TestParentsThatWereThereForTheirChildrenGoWithTheLast(t *testing.T) {
	b := newBench(t, "copy")
	b.provision(t, "p.c.g", "one")
	b.provision(t, "p.d", "one")
	b.provision(t, "q", "one")
	b.provision(t, "q.c", "one")
	b.wantDestroyed(t, "p.c.g", true)
	b.wantContainers(t, "p", "p.d", "q", "q.c")
	b.wantDestroyed(t, "p.d", true)
	b.wantDestroyed(t, "q.c", true)
	b.wantContainers(t, "q")
	wantFile(t, b.provision(t, "q", "one").Path, "one")
	// One in which there is something else, or in which somebody begins something, stays.
	b.provision(t, "p.c", "one")
	notes := filepath.Join(b.Paths.Container(id(t, "p")), "notes")
	write(t, notes, "not ours")
	b.wantDestroyed(t, "p.c", true)
	b.wantContainers(t, "p", "q")
}

func TestAParentStaysWhileAnotherChildIsBegun(t *testing.T) {
	b := newBench(t, "fake")
	b.provision(t, "p.c", "one")
	waiting := &waitingStore{b.Stores[v1.Image_DOCKER], make(chan struct{})}
	b.Stores[v1.Image_DOCKER] = waiting
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := b.Provision(ctx, id(t, "p.d"), b.Image("one"))
		result <- err
	}()
	<-waiting.inside
	b.wantDestroyed(t, "p.c", true)
	b.wantContainers(t, "p")
	cancel()
	wantError(t, <-result, context.Canceled)
	b.wantDestroyed(t, "p", true)
}

// failing lets the removals of paths that contain a name fail until restore.
func failing(name string, how error) (restore func()) {
	return disk.Intercept(func(s disk.Step) error {
		if s.Op == "remove" && strings.Contains(s.Path, name) {
			return how
		}
		return nil
	})
}

// That a directory cannot be removed does not keep a container from being destroyed. It
// is told, its record stays, and whoever comes next tries again.
func TestADirectoryThatCannotBeRemoved(t *testing.T) {
	for _, again := range []string{"destroy", "recover", "provision"} {
		t.Run(again, func(t *testing.T) {
			b := newBench(t, "fake")
			b.provision(t, "p", "one")
			b.provision(t, "p.c", "two")
			b.destroyedContainers(t)
			stuck := filepath.Join(b.Paths.Backends(id(t, "p.c")), "stuck")
			write(t, stuck, "x")
			restore := failing("stuck", syscall.EBUSY)
			for n := range 2 {
				b.wantDestroyed(t, "p", true)
				b.wantContainers(t, "p", "p.c")
				b.wantCount(t, provisioner.RemoveContainerErrors, float64(2*n+2))
				b.wantLogged(t, "could not be removed", "container=p.c", "busy", "container=p ", "that of the container p.c, in it, is still there")
			}
			if rec := b.record(t, "p.c"); len(rec) != 1 {
				t.Errorf("the record is %v", rec)
			}
			if got := b.destroyedContainers(t); !slices.Equal(got, []string{"p.c", "p"}) {
				t.Errorf("destroyed %q", got)
			}
			for _, at := range []string{"p", "p.c", "p.new"} { // which would go with what is left
				_, err := b.Provision(t.Context(), id(t, at), b.Image("one"))
				wantError(t, err, container.ErrFailedPrecondition, "provision "+at+": ", "what is left of an earlier container")
			}
			restore()
			switch again {
			case "destroy":
				b.wantDestroyed(t, "p", true)
				b.wantContainers(t)
			case "recover":
				if err := b.recoverAll(t); err != nil {
					t.Error(err)
				}
				b.wantContainers(t)
			case "provision":
				rootfs := b.provision(t, "p.c", "one")
				if rec := b.record(t, "p.c"); len(rec) != 1 || rec[filepath.Base(rootfs.Path)] == nil {
					t.Errorf("the record is %v", rec)
				}
				b.wantContainers(t, "p", "p.c")
				b.wantDestroyed(t, "p", true)
			}
			wantNoFile(t, stuck)
		})
	}
}

func TestADestroyOfANestedContainerThatFailsIsCounted(t *testing.T) {
	b := newBench(t, "fake")
	for _, at := range []string{"p", "p.a", "p.b.g"} {
		b.provision(t, at, "one")
	}
	b.fake.onDestroy = func(string) error { return errNothing }
	_, err := b.Destroy(t.Context(), id(t, "p.a"))
	wantError(t, err, errNothing)
	b.wantCount(t, provisioner.RemoveContainerErrors, 0) // it is nobody's child there
	_, err = b.Destroy(t.Context(), id(t, "p"))
	wantError(t, err, errNothing)
	b.wantCount(t, provisioner.RemoveContainerErrors, 3) // p.a, p.b.g, and p.b for it
	b.fake.onDestroy = nil
	b.wantDestroyed(t, "p", true)
	b.wantContainers(t)
}

// Whatever step of a destroy fails, another one takes up what is left.
func TestDestroyAfterAFaultAtAnyStep(t *testing.T) {
	for reached, n := true, 1; reached; n++ {
		b := newBench(t, "overlay")
		b.provision(t, "p", "two")
		b.provision(t, "p.c", "two")
		var steps atomic.Int64
		restore := disk.Intercept(func(disk.Step) error {
			if steps.Add(1) == int64(n) {
				return syscall.EIO
			}
			return nil
		})
		_, err := b.Destroy(t.Context(), id(t, "p.c"))
		reached = steps.Load() >= int64(n)
		restore()
		if err != nil && !errors.Is(err, syscall.EIO) {
			t.Errorf("the fault at step %d: %v", n, err)
		}
		if _, err := b.Destroy(t.Context(), id(t, "p")); err != nil {
			t.Errorf("after the fault at step %d: %v", n, err)
		}
		b.wantContainers(t)
		if t.Failed() {
			return
		}
	}
}
