package provisioner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/container"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/store"
)

// meeting is a store whose callers wait for each other.
type meeting struct {
	store.Store
	missing *sync.WaitGroup
}

func (m meeting) Get(ctx context.Context, img *v1.Image, form layer.Form) (*store.Image, error) {
	m.missing.Done()
	met := make(chan struct{})
	go func() { m.missing.Wait(); close(met) }()
	select {
	case <-met:
		return m.Store.Get(ctx, img, form)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *bench) several(names ...string) (wanted []provisioner.Wanted) {
	for _, name := range names {
		wanted = append(wanted, provisioner.Wanted{Image: b.Image(name)})
	}
	return wanted
}

func TestSeveralImagesAreGotSideBySide(t *testing.T) {
	b := newBench(t, "overlay")
	names := []string{"two", "one", "two", "three"}
	missing := new(sync.WaitGroup)
	missing.Add(len(names))
	b.Stores[v1.Image_DOCKER] = meeting{b.Stores[v1.Image_DOCKER], missing}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one after the other would wait for ever
	defer cancel()
	all, err := b.ProvisionAll(ctx, id(t, "c"), b.several(names...), container.IDRange{})
	if err != nil {
		t.Fatal(err)
	}
	record := b.record(t, "c")
	if len(all) != len(names) || len(record) != len(names) {
		t.Fatalf("%d root filesystems, %d are recorded", len(all), len(record))
	}
	for i, rootfs := range all {
		wantFile(t, rootfs.Path, topFile(names[i]))
	}
	b.wantDestroyed(t, "c", true)
	b.wantContainers(t)
	if leases := b.inStore(t, "leases"); len(leases) > 0 {
		t.Errorf("leases are left: %q", leases)
	}
}

func TestOneOfSeveralThatFailsEndsTheOthers(t *testing.T) {
	b := newBench(t, "overlay")
	for _, names := range [][]string{{"missing", "one"}, {"one", "missing"}, {"one", "two", "missing", "missing"}} {
		all, err := b.ProvisionAll(t.Context(), id(t, "c"), b.several(names...), container.IDRange{})
		if all != nil || !errors.Is(err, container.ErrNotFound) {
			t.Errorf("%q: %v, %v", names, all, err)
		}
		if leases := b.inStore(t, "leases"); len(leases) > 0 {
			t.Errorf("%q: leases are left: %q", names, leases)
		}
		if _, err := b.Destroy(t.Context(), id(t, "c")); err != nil {
			t.Error(err)
		}
	}
	unknown := &v1.Image{Type: v1.Image_APPC.Enum()}
	if _, err := b.ProvisionAll(t.Context(), id(t, "c"), append(b.several("one"), provisioner.Wanted{Image: unknown}), container.IDRange{}); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("of an unknown type: %v", err)
	}
	b.wantContainers(t)
}

// A root filesystem that was made before another one could not be is left to Destroy.
func TestOneOfSeveralThatCannotBeStacked(t *testing.T) {
	b := newBench(t, "fake")
	cause, made := errors.New("the cause"), 0
	b.fake.onMake = func(context.Context, string) error {
		if made++; made == 2 {
			return cause
		}
		return nil
	}
	if _, err := b.ProvisionAll(t.Context(), id(t, "c"), b.several("one", "two", "three"), container.IDRange{}); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	if record := b.record(t, "c"); made != 2 || len(record) != 2 {
		t.Errorf("%d were made, %d are recorded", made, len(record))
	}
	b.wantDestroyed(t, "c", true)
	b.wantContainers(t)
}

// What nobody writes to is read-only, and has nothing that counts towards a disk quota; with
// a backend that makes no difference it is what it always is.
func TestSomeOfSeveralAreReadOnly(t *testing.T) {
	for _, c := range []struct {
		backend string
		differs bool
	}{{"overlay", true}, {"copy", false}} {
		t.Run(c.backend, func(t *testing.T) {
			b := newBench(t, c.backend)
			wanted := b.several("one", "one")
			wanted[1].ReadOnly = true
			all, err := b.ProvisionAll(t.Context(), id(t, "c"), wanted, container.IDRange{})
			if err != nil {
				t.Fatal(err)
			}
			uses, err := b.Uses()
			if err != nil || len(uses) != 2 {
				t.Fatalf("the uses are %+v, %v", uses, err)
			}
			for i, rootfs := range all {
				wantFile(t, rootfs.Path, topFile("one"))
				readOnly := wanted[i].ReadOnly && c.differs
				if err := os.WriteFile(filepath.Join(rootfs.Path, "new"), nil, 0o600); errors.Is(err, unix.EROFS) != readOnly {
					t.Errorf("read-only: %v; to write in it returned %v", readOnly, err)
				}
				used := uses[slices.IndexFunc(uses, func(u provisioner.Use) bool { return u.Rootfs == rootfs.Path })]
				if !slices.Equal(used.Ephemeral, rootfs.Ephemeral) || readOnly != (len(rootfs.Ephemeral) == 0) {
					t.Errorf("read-only: %v; ephemeral are %q, recorded %q", readOnly, rootfs.Ephemeral, used.Ephemeral)
				}
			}
			b.wantDestroyed(t, "c", true)
			b.wantContainers(t)
		})
	}
}
