package provisioner_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/layer"
	"berth/provisioner"
)

// prune prunes, after it has asked what it would do.
func (b *bench) prune(t testing.TB, excluded ...*v1.Image) provisioner.Pruned {
	t.Helper()
	before, err := b.Layers.List()
	if err != nil {
		t.Fatal(err)
	}
	announced, err := b.Prune(t.Context(), provisioner.PruneOptions{Excluded: excluded, DryRun: true})
	if err != nil {
		t.Errorf("dry run: %v", err)
	}
	b.wantInStore(t, slices.Sorted(slices.Values(before)))
	pruned, err := b.Prune(t.Context(), provisioner.PruneOptions{Excluded: excluded})
	if err != nil {
		t.Errorf("prune: %v", err)
	}
	slices.Sort(announced.Layers)
	slices.Sort(pruned.Layers)
	if !reflect.DeepEqual(announced, pruned) {
		t.Errorf("announced was %+v, done was %+v", announced, pruned)
	}
	if (pruned.Bytes > 0) != (len(pruned.Layers) > 0) {
		t.Errorf("%d layers of %d bytes", len(pruned.Layers), pruned.Bytes)
	}
	return pruned
}

func wantPruned(t testing.TB, pruned provisioner.Pruned, want ...string) {
	t.Helper()
	got := []string{}
	for _, rec := range pruned.Images {
		got = append(got, strings.TrimSuffix(rec.Reference+","+rec.Platform, ","))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("pruned are the images %q, want %q", got, want)
	}
}

func TestPruneTakesWhatNobodyNeeds(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.provision(t, "c", "two")
	b.provision(t, "gone", "three")
	b.wantDestroyed(t, "gone", true)
	b.pull(t, "one", "four", "five")
	l.takeAsked()
	pruned := b.prune(t, b.Image("four"), b.Image("unheard"))
	wantPruned(t, pruned, "one", "three", "five")
	want := layersOfImages("two", "four")
	wantDigests(t, "pruned", pruned.Layers, without(layersOfImages("three", "five"), want...))
	b.wantInStore(t, want)
	l.wantRecorded(t, "two", "four")
	if asked := l.takeAsked(); !slices.Equal(asked, []string{"forget five", "forget one", "forget three", "sync"}) {
		t.Errorf("the store was asked %q", asked)
	}
	b.wantCount(t, provisioner.Prunes, 1)
	b.wantCount(t, provisioner.PrunedBytes, float64(pruned.Bytes))
	wantPruned(t, b.prune(t, b.Image("four")))
	wantFile(t, b.provision(t, "d", "two").Path, "two")
	wantPruned(t, b.prune(t), "four")
	for _, at := range []string{"c", "d"} {
		b.wantDestroyed(t, at, true)
	}
	wantPruned(t, b.prune(t), "two")
	b.wantInStore(t, nil)
}

// Images of one name for two platforms are two images; excluded are both.
func TestPruneTellsPlatformsApart(t *testing.T) {
	b, l := newLedger(t, "copy")
	arm := onPlatform(b.Image("one"), "linux/arm64")
	if _, err := b.Provision(t.Context(), id(t, "c"), arm); err != nil {
		t.Fatal(err)
	}
	b.pull(t, "one", "two")
	if err := b.hold(t, onPlatform(b.Image("two"), "linux/arm64")).Release(); err != nil {
		t.Fatal(err)
	}
	wantPruned(t, b.prune(t, b.Image("two")), "one")
	l.wantRecorded(t, "one,linux/arm64", "two", "two,linux/arm64")
	uses, err := b.Uses()
	if err != nil || len(uses) != 1 || uses[0].Platform != "linux/arm64" {
		t.Errorf("uses are %+v, %v", uses, err)
	}
	wantPruned(t, b.prune(t, arm), "two", "two,linux/arm64")
}

// A container whose image has another content by now keeps its layers, and the image's
// record.
func TestPruneWhenATagHasMoved(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.Publish("tag", images["two"])
	rootfs := b.provision(t, "c", "tag")
	b.Publish("tag", images["three"])
	again := b.Image("tag")
	again.Cached = new(bool)
	if err := b.hold(t, again).Release(); err != nil {
		t.Fatal(err)
	}
	wantPruned(t, b.prune(t))
	b.wantInStore(t, layersOfImages("two", "three"))
	wantFile(t, rootfs.Path, "two")
	b.wantDestroyed(t, "c", true)
	wantPruned(t, b.prune(t), "tag")
	l.wantRecorded(t)
}

// Somebody has got an image and not yet recorded that a container uses it.
func TestPruneSparesWhatSomebodyIsGetting(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.pull(t, "two", "five")
	held := b.hold(t, b.Image("three"))
	wantPruned(t, b.prune(t), "five", "two")
	l.wantRecorded(t, "three")
	b.wantInStore(t, layersOfImages("three"))
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	wantPruned(t, b.prune(t), "three")
}

func TestPruneRefuses(t *testing.T) {
	appc := &v1.Image{Type: v1.Image_APPC.Enum()}
	for _, c := range []struct {
		name     string
		excluded *v1.Image
		spoil    func(t *testing.T, b *bench, l *ledger)
		class    error
		says     []string
	}{
		{"an excluded type without a store", appc, nil, container.ErrNotSupported, []string{"excluded image", "APPC"}},
		{"while the record of an image cannot be read", nil,
			func(t *testing.T, b *bench, l *ledger) { l.spoil(t, "two", syscall.EIO) },
			syscall.EIO, []string{"/records/two", "nothing is removed", "`berth repair`"}},
		{"while an image is a newer berth's", nil,
			func(t *testing.T, b *bench, l *ledger) { l.spoil(t, "two", errNewer) },
			container.ErrNotSupported, []string{"/records/two"}},
		{"while the records cannot be listed", nil,
			func(t *testing.T, b *bench, l *ledger) { l.failing["list"] = syscall.EMFILE },
			syscall.EMFILE, nil},
		{"while the record of a container cannot be read", nil,
			func(t *testing.T, b *bench, l *ledger) {
				write(t, b.Paths.Layers(id(t, "newer.child")), `{"version": 2, "rootfses": ["of another form"]}`)
			},
			container.ErrNotSupported, []string{"newer.child", "nothing is removed", "`berth destroy newer.child`"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, l := newLedger(t, "fake")
			b.pull(t, "one", "two")
			var excluded []*v1.Image
			if c.excluded != nil {
				excluded = append(excluded, c.excluded)
			}
			if c.spoil != nil {
				c.spoil(t, b, l)
			}
			l.takeAsked()
			for _, dry := range []bool{true, false} {
				pruned, err := b.Prune(t.Context(), provisioner.PruneOptions{Excluded: excluded, DryRun: dry})
				wantError(t, err, c.class, append(c.says, "prune images: ")...)
				if len(pruned.Images) > 0 || len(pruned.Layers) > 0 {
					t.Errorf("pruned are %+v", pruned)
				}
			}
			if asked := l.takeAsked(); len(asked) > 0 {
				t.Errorf("the store was asked %q", asked)
			}
			b.wantInStore(t, layersOfImages("one", "two"))
			b.wantCount(t, provisioner.Prunes, 0)
		})
	}
}

// Until the stores have made durable what they forgot, no layer is taken to pieces:
// after a power cut the records would be back, and their layers half there.
func TestPruneThatFailsIsTakenUpAgain(t *testing.T) {
	for _, what := range []string{"forget two", "sync"} {
		t.Run(what, func(t *testing.T) {
			b, l := newLedger(t, "fake")
			b.pull(t, "one", "two", "three")
			l.failing[what] = syscall.EIO
			pruned, err := b.Prune(t.Context(), provisioner.PruneOptions{})
			wantError(t, err, syscall.EIO, "prune images: ")
			if len(pruned.Layers) > 0 {
				t.Errorf("pruned are %+v", pruned)
			}
			delete(l.failing, what)
			b.prune(t)
			l.wantRecorded(t)
			b.wantInStore(t, nil)
			b.wantNoStaging(t)
		})
	}
}

func (b *bench) wantNoStaging(t testing.TB) {
	t.Helper()
	for _, sub := range []string{"staging", "leases"} {
		if left := b.inStore(t, sub); len(left) > 0 {
			t.Errorf("%s has %q", sub, left)
		}
	}
}

// Wherever a prune is killed, the next one takes up what is left.
func TestPruneResumesAfterAKill(t *testing.T) {
	dead := errors.New("the process is dead")
	for died, n := true, 1; died; n++ {
		b, l := newLedger(t, "fake")
		b.pull(t, "one", "two", "three")
		var steps atomic.Int64
		restore := disk.Intercept(func(disk.Step) error {
			if steps.Add(1) >= int64(n) {
				return dead
			}
			return nil
		})
		_, err := b.Prune(t.Context(), provisioner.PruneOptions{Excluded: []*v1.Image{b.Image("one")}})
		died = steps.Load() >= int64(n)
		restore()
		if !died && err != nil {
			t.Fatalf("prune of %d steps: %v", steps.Load(), err)
		}
		b.prune(t, b.Image("one"))
		l.wantRecorded(t, "one")
		b.wantInStore(t, layersOfImages("one"))
		b.wantNoStaging(t)
		if t.Failed() {
			t.Fatalf("killed at step %d", n)
		}
	}
}

func TestUsageIsWhatARemovalFrees(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.pull(t, "one", "two", "three", "four", "five")
	if err := b.hold(t, onPlatform(b.Image("five"), "linux/arm64")).Release(); err != nil {
		t.Fatal(err)
	}
	b.provision(t, "c", "two")
	usages, err := b.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bytes := func(ids ...image.Digest) (n int64) {
		for _, id := range ids {
			info, err := b.Layers.Info(id, layer.Tree)
			if err != nil {
				t.Fatal(err)
			}
			n += info.Disk
		}
		return n
	}
	two, three, four := images["two"].DiffIDs(), images["three"].DiffIDs(), images["four"].DiffIDs()
	five := bytes(images["five"].DiffIDs()...)
	want := []provisioner.ImageUsage{ // ordered
		{Unique: 0, Shared: five},
		{Unique: 0, Shared: five},
		{Unique: bytes(four[1]), Shared: bytes(four[0])},
		{Unique: 0, Shared: bytes(four[0])},
		{Unique: bytes(three[1:]...), Shared: bytes(three[0])},
		{Unique: 0, Shared: bytes(two...)},
	}
	var unique int64
	for i, u := range usages {
		if u.Unique != want[i].Unique || u.Shared != want[i].Shared || u.Size == 0 {
			t.Errorf("%s %s: %+v, want %+v", u.Reference, u.Platform, u, want[i])
		}
		unique += u.Unique
	}
	shared := bytes(append(two, four[0], images["five"].DiffIDs()[0])...)
	if total := bytes(layersOfImages("one", "two", "three", "four", "five")...); unique+shared != total || total == 0 {
		t.Errorf("%d bytes are unique and %d shared, %d in all", unique, shared, total)
	}
	for _, at := range []int{2, 4} {
		swept, err := b.Remove(t.Context(), b.Image(usages[at].Reference))
		if err != nil || swept.Bytes != usages[at].Unique {
			t.Errorf("the removal of %s freed %d bytes (%v), announced were %d", usages[at].Reference, swept.Bytes, err, usages[at].Unique)
		}
	}
	l.spoil(t, "one", syscall.EIO)
	usages, err = b.Usage(t.Context())
	wantError(t, err, syscall.EIO, "/records/one")
	if len(usages) != 3 {
		t.Errorf("of the others it says %+v", usages)
	}
}

func TestRemove(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.pull(t, "two", "three")
	if err := b.hold(t, onPlatform(b.Image("three"), "linux/arm64")).Release(); err != nil {
		t.Fatal(err)
	}
	b.provision(t, "c.child", "two")
	_, err := b.Remove(t.Context(), b.Image("two"))
	wantError(t, err, container.ErrFailedPrecondition, "remove image two: ", "the container c.child uses it")
	_, err = b.Remove(t.Context(), b.Image("unheard"))
	wantError(t, err, container.ErrNotFound, "remove image unheard: ")
	_, err = b.Remove(t.Context(), &v1.Image{Type: v1.Image_APPC.Enum()})
	wantError(t, err, container.ErrNotSupported, "remove image: ", "APPC")
	l.wantRecorded(t, "two", "three", "three,linux/arm64")

	swept, err := b.Remove(t.Context(), b.Image("three")) // for every platform
	if err != nil {
		t.Error(err)
	}
	l.wantRecorded(t, "two")
	wantDigests(t, "removed", swept.Layers, without(layersOfImages("three"), layersOfImages("two")...))
	b.wantDestroyed(t, "c", true)
	if _, err := b.Remove(t.Context(), b.Image("two")); err != nil {
		t.Error(err)
	}
	b.wantInStore(t, nil)
}

// An image goes also when its record cannot be read. That of another one may need any
// layer, and that of a newer berth is not ours.
func TestRemoveOfAnUnreadableRecord(t *testing.T) {
	b, l := newLedger(t, "fake")
	b.pull(t, "one", "two", "five")
	l.spoil(t, "two", syscall.EIO)
	_, err := b.Remove(t.Context(), b.Image("one"))
	wantError(t, err, syscall.EIO, "remove image one: ", "/records/two", "`berth repair`")
	l.wantRecorded(t, "one", "five")
	if _, err := b.Remove(t.Context(), b.Image("two")); err != nil {
		t.Error(err)
	}
	b.wantInStore(t, layersOfImages("one", "five"))
	l.spoil(t, "five", errNewer)
	_, err = b.Remove(t.Context(), b.Image("five"))
	wantError(t, err, container.ErrNotSupported, "remove image five: ", "/records/five")
	b.wantInStore(t, layersOfImages("one", "five"))
}

// Who removes an image decides while nobody can begin to use it: somebody who provisions
// it meanwhile is either seen, or finds it gone.
func TestRemoveDecidesUnderTheLock(t *testing.T) {
	b, l := newLedger(t, "fake")
	b.pull(t, "two")
	provisioned := make(chan error, 1)
	restore := disk.Intercept(func(s disk.Step) error {
		if s.Op == disk.Reached && s.Path == "provision: recorded" {
			_, err := b.Remove(t.Context(), b.Image("two"))
			provisioned <- err
		}
		return nil
	})
	b.provision(t, "c", "two")
	restore()
	wantError(t, <-provisioned, container.ErrFailedPrecondition, "the container c uses it")
	l.wantRecorded(t, "two")
}
