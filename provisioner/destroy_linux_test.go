package provisioner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/mount"
	"berth/layer"
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

// waitingStore waits in Get.
type waitingStore struct {
	store.Store
	inside chan struct{}
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

func TestRecover(t *testing.T) {
	for _, c := range []struct {
		name                string
		there, known, stays []string
	}{
		{"nothing", nil, nil, nil},
		{"all are known", []string{"a", "b"}, []string{"a", "b"}, []string{"a", "b"}},
		{"none is known", []string{"a", "b", "b.c"}, nil, nil},
		{"some are known", []string{"a", "b", "c"}, []string{"b", "elsewhere"}, []string{"b"}},
		{"a child is not known", []string{"a", "a.b", "a.c", "a.b.d"}, []string{"a", "a.c"}, []string{"a", "a.c"}},
		{"only a grandchild is known", []string{"a", "a.b", "a.b.c", "a.d"}, []string{"a.b.c"}, []string{"a", "a.b", "a.b.c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "overlay")
			for _, at := range c.there {
				b.provision(t, at, "two")
			}
			for range 2 {
				if err := b.recoverAll(t, c.known...); err != nil {
					t.Error(err)
				}
				b.wantContainers(t, c.stays...)
			}
			uses, err := b.Uses()
			if err != nil || len(uses) != len(c.stays) {
				t.Errorf("%d root filesystems are left (%v), want %d", len(uses), err, len(c.stays))
			}
			for _, use := range uses {
				dir := filepath.Join(b.Paths.BackendDir(use.Container, "overlay"), "rootfses")
				rootfses, err := os.ReadDir(dir)
				if err != nil || len(rootfses) != 1 {
					t.Fatalf("%s has %v (%v)", dir, rootfses, err)
				}
				wantFile(t, filepath.Join(dir, rootfses[0].Name()), "two")
			}
		})
	}
}

// A container that is admitted while Recover works is known when it is asked about.
func TestRecoverAsksAfterItHasListed(t *testing.T) {
	b := newBench(t, "fake")
	b.provision(t, "old", "one")
	err := b.Recover(t.Context(), func(asked container.ID) bool {
		if asked == id(t, "old") {
			b.provision(t, "new", "one")
		}
		return asked == id(t, "new")
	})
	if err != nil {
		t.Error(err)
	}
	b.wantContainers(t, "new")
}

func TestRecoverLeavesUnknownFilesAlone(t *testing.T) {
	b := newBench(t, "overlay")
	b.provision(t, "a", "one")
	b.provision(t, "known", "one")
	alone := []string{
		filepath.Join(b.Paths.Root(), "README"),
		filepath.Join(b.Paths.Containers(), "notes"),
		filepath.Join(b.Paths.Containers(), "not an id", "file"),
		filepath.Join(b.Paths.Container(id(t, "known")), "file"),
		filepath.Join(b.Paths.Container(id(t, "known")), "containers", "file"),
	}
	// Those in the directory of a container go with it.
	for _, path := range append([]string{
		filepath.Join(b.Paths.Backends(id(t, "a")), "file"),
		filepath.Join(b.Paths.BackendDir(id(t, "a"), "overlay"), "file"),
		filepath.Join(b.Paths.BackendDir(id(t, "a"), "overlay"), "rootfses", "file"),
		filepath.Join(b.Paths.Container(id(t, "a")), "containers", "file"),
	}, alone...) {
		write(t, path, "not ours")
	}
	if err := b.recoverAll(t, "known"); err != nil {
		t.Error(err)
	}
	b.wantContainers(t, "known")
	for _, path := range alone {
		if content, err := os.ReadFile(path); err != nil || string(content) != "not ours" {
			t.Errorf("%s: %q, %v", path, content, err)
		}
	}
}

func TestRecoverWithAnUnknownBackend(t *testing.T) {
	b := newBench(t, "fake")
	for _, at := range []string{"a", "b", "c"} {
		b.provision(t, at, "one")
	}
	foreign := filepath.Join(b.Paths.BackendDir(id(t, "b"), "aufs"), "rootfses", "x")
	write(t, filepath.Join(foreign, "file"), "mounted, for all we know")
	err := b.recoverAll(t)
	wantError(t, err, container.ErrNotSupported, "recover provisioner: ", "destroy the root filesystems of b: ", b.Paths.BackendDir(id(t, "b"), "aufs"), `backend "aufs"`, "not supported on this host")
	b.wantContainers(t, "b")
	if len(b.record(t, "b")) != 1 {
		t.Error("the record of what is left has gone")
	}
	if _, err := os.Stat(filepath.Join(foreign, "file")); err != nil {
		t.Error(err)
	}
	if got := b.destroyedContainers(t); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("destroyed %q", got)
	}
}

// Whatever a kill has left of a container goes: without a record, without a backend,
// with scratch only, with a record that was not renamed yet.
func TestRecoverOfHalfMadeContainers(t *testing.T) {
	b := newBench(t, "overlay")
	write(t, filepath.Join(b.Paths.Container(id(t, "torn")), ".layers.123"), `{"ver`)
	for _, dir := range []string{
		b.Paths.Container(id(t, "empty")),
		b.Paths.Backends(id(t, "backendless")),
		b.Paths.BackendDir(id(t, "rootless"), "overlay"),
		filepath.Join(b.Paths.BackendDir(id(t, "scratch"), "overlay"), "scratch", "x", "upper"),
		filepath.Join(b.Paths.BackendDir(id(t, "unmounted"), "overlay"), "rootfses", "x"),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.recoverAll(t); err != nil {
		t.Error(err)
	}
	b.wantContainers(t)
	if left, err := os.ReadDir(b.Paths.Containers()); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestBackendsAreAskedToDestroyWhatHasOnlyScratch(t *testing.T) {
	b := newBench(t, "fake")
	if err := os.MkdirAll(filepath.Join(b.Paths.BackendDir(id(t, "c"), "fake"), "scratch", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.wantDestroyed(t, "c", true)
	if got := b.destroyedContainers(t); !slices.Equal(got, []string{"c"}) {
		t.Errorf("destroyed %q", got)
	}
}

func TestRecoverTakesUpTheLayerStore(t *testing.T) {
	b := newBench(t, "fake")
	dead := filepath.Join(b.Layers.Dir(), "staging", "dead")
	write(t, filepath.Join(dead, "1", "fs", "file"), "x")
	write(t, filepath.Join(b.Layers.Dir(), "leases", "dead"), string(image.DigestOf(nil)))
	if err := b.recoverAll(t); err != nil {
		t.Error(err)
	}
	wantNoFile(t, dead)
}
