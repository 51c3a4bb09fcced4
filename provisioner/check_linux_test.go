package provisioner_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/store"
)

// flip changes one bit of a file of a layer, and keeps its times, as a failing disk does.
func (b *bench) flip(t testing.TB, id image.Digest, name string) {
	t.Helper()
	path := filepath.Join(b.Layers.Path(id, layer.Tree), name)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// lose removes a layer, as a file system check may.
func (b *bench) lose(t testing.TB, id image.Digest) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(b.Layers.Dir(), "layers", id.String())); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) check(t testing.TB) *provisioner.Report {
	t.Helper()
	report, err := b.Check(t.Context())
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return report
}

func (b *bench) wantClean(t testing.TB, layers int) {
	t.Helper()
	if report := b.check(t); !report.Clean() || report.Checked != layers {
		t.Errorf("check says %+v, want %d whole layers", report, layers)
	}
}

func TestCheckNamesWhatIsBroken(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.pull(t, "two", "three", "four", "five")
	b.provision(t, "c.child", "four")
	b.wantClean(t, 6+1)
	base, two, five := images["two"].DiffIDs()[0], images["two"].DiffIDs()[1], images["five"].DiffIDs()[0]
	one, four := images["four"].DiffIDs()[0], images["four"].DiffIDs()[1]
	b.flip(t, base, "base")
	b.lose(t, five)
	b.lose(t, one)
	l.spoil(t, "two", syscall.EIO)
	newer := b.Paths.Layers(id(t, "newer"))
	write(t, newer, `{"version": 2}`)
	unknown := []string{filepath.Join(b.Paths.Root(), "README"), filepath.Join(b.Paths.Container(id(t, "c")), "notes")}
	for _, path := range unknown {
		write(t, path, "not ours")
	}
	report := b.check(t)
	want := []provisioner.LayerReport{
		{Layer: base, Images: []string{"three"}},
		{Layer: five, Images: []string{"five"}},
		{Layer: one, Images: []string{"four"}, Containers: []string{"c.child"}},
	}
	slices.SortFunc(want, func(a, b provisioner.LayerReport) int { return strings.Compare(string(a.Layer), string(b.Layer)) })
	for i, w := range want {
		if i >= len(report.Layers) {
			t.Fatalf("broken are %+v, want %+v", report.Layers, want)
		}
		got := report.Layers[i]
		if got.Layer != w.Layer || !slices.Equal(got.Images, w.Images) || !slices.Equal(got.Containers, w.Containers) || len(got.Problems) == 0 {
			t.Errorf("broken is %+v, want %+v", got, w)
		}
	}
	if len(report.Layers) != len(want) || report.Checked != 7 || report.Clean() {
		t.Errorf("checked are %d layers, broken %d", report.Checked, len(report.Layers))
	}
	if n := len(report.Records); n != 2 || report.Records[0].Image != "two" || report.Records[0].Path != "/records/two" || report.Records[1].Path != newer {
		t.Errorf("unreadable are %+v", report.Records)
	}
	if !slices.Equal(report.Unknown, unknown) && !slices.Equal(report.Unknown, []string{unknown[1], unknown[0]}) {
		t.Errorf("unknown are %q, want %q", report.Unknown, unknown)
	}
	for _, id := range []image.Digest{two, four} { // which are whole
		if slices.ContainsFunc(report.Layers, func(r provisioner.LayerReport) bool { return r.Layer == id }) {
			t.Errorf("%s is called broken", id)
		}
	}
}

// Scripts read this.
func TestReportAsJSON(t *testing.T) {
	b := newBench(t, "overlay")
	text, err := json.Marshal(b.check(t))
	if want := `{"checked":0,"broken":[]}`; err != nil || string(text) != want {
		t.Errorf("%s (%v), want %s", text, err, want)
	}
	b.provision(t, "c", "one")
	b.flip(t, images["one"].DiffIDs()[0], "one")
	text, err = json.Marshal(b.check(t))
	want := `{"checked":1,"broken":[{"layer":"` + images["one"].DiffIDs()[0].String() + `","form":"tree","images":["one"],"containers":["c"],"problems":[{"path":"one","what":"`
	if err != nil || !strings.HasPrefix(string(text), want) {
		t.Errorf("%s (%v), want %s...", text, err, want)
	}
}

// What is removed while a check is under way, with all that needed it, is not missing;
// and nobody has to wait with that until the check is at its end.
func TestImagesAreRemovedDuringACheck(t *testing.T) {
	b, _ := newLedger(t, "copy")
	b.pull(t, "one", "two", "three", "five")
	var first sync.Once
	restore := disk.Intercept(func(s disk.Step) error {
		if s.Op == "open" && s.Path == "split.zst" { // in the first layers that are looked at
			first.Do(func() {
				for _, name := range []string{"two", "three"} {
					if _, err := b.Remove(t.Context(), b.Image(name)); err != nil {
						t.Errorf("remove: %v", err)
					}
				}
			})
		}
		return nil
	})
	report := b.check(t)
	restore()
	if !report.Clean() {
		t.Errorf("broken are %+v", report.Layers)
	}
	if n := len(b.inStore(t, "layers")); n > 2+runtime.GOMAXPROCS(0) { // those of the images that stay, and those that were just looked at
		t.Errorf("%d layers were kept", n)
	}
}

func TestCheckThatCannotBeDone(t *testing.T) {
	b, l := newLedger(t, "copy")
	b.pull(t, "one", "two")
	l.failing["list"] = syscall.EMFILE
	_, err := b.Check(t.Context())
	wantError(t, err, syscall.EMFILE, "check the store: ")
	delete(l.failing, "list")
	l.spoil(t, "one", errNewer)
	report := b.check(t)
	if len(report.Records) != 1 || report.Clean() {
		t.Errorf("unreadable are %+v", report.Records)
	}
}

// repair returns also what the store was asked for, but for its syncs.
func (l *ledger) repair(t testing.TB, b *bench) (_ *provisioner.Repaired, asked []string, err error) {
	t.Helper()
	l.takeAsked()
	repaired, err := b.Repair(t.Context())
	asked = slices.DeleteFunc(l.takeAsked(), func(what string) bool { return what == "sync" })
	return repaired, asked, err
}

func TestRepairFetchesJustWhatIsBroken(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.pull(t, "two", "three", "five")
	running := b.provision(t, "c", "three")
	base, five := images["two"].DiffIDs()[0], images["five"].DiffIDs()[0]
	repaired, asked, err := l.repair(t, b)
	if err != nil || len(asked) > 0 {
		t.Errorf("with nothing broken, repair asked %q: %v", asked, err)
	}
	if text, err := json.Marshal(repaired); string(text) != `{"fetched":[],"made":[],"removed":[],"images":[],"remained":[]}` {
		t.Errorf("%s, %v", text, err)
	}

	b.flip(t, base, "base")
	b.lose(t, five)
	before := contentIn(t, running.Path, "base")
	repaired, asked, err = l.repair(t, b)
	if err != nil {
		t.Error(err)
	}
	want := []image.Digest{base, five}
	slices.Sort(want)
	wantDigests(t, "fetched", repaired.Fetched, want)
	if !slices.Equal(asked, []string{"refetch " + want[0].String(), "refetch " + want[1].String()}) {
		t.Errorf("the store was asked %q", asked)
	}
	if len(repaired.Removed)+len(repaired.Images)+len(repaired.Remained) > 0 {
		t.Errorf("repaired are %+v", repaired)
	}
	b.wantCount(t, provisioner.RepairedLayers, 2)
	b.wantClean(t, 5)
	// Who runs keeps what he has; who starts now has what is right.
	if now := contentIn(t, running.Path, "base"); now != before {
		t.Error("a running container sees another file")
	}
	if now := contentIn(t, b.provision(t, "d", "three").Path, "base"); now == before {
		t.Error("a new container sees the broken file")
	}
	for _, at := range []string{"c", "d"} {
		b.wantDestroyed(t, at, true)
	}
	b.sweep(t)
	b.wantNoStaging(t)
	b.wantInStore(t, layersOfImages("two", "three", "five"))
}

func contentIn(t testing.TB, rootfs, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(rootfs, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The copy that was broken goes with the repair when nobody stands on it.
func TestRepairLeavesNoBrokenCopies(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.pull(t, "five")
	count := func() (n int) {
		t.Helper()
		err := filepath.WalkDir(b.Layers.Dir(), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Name() == "five" {
				n++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	b.flip(t, images["five"].DiffIDs()[0], "five")
	if _, _, err := l.repair(t, b); err != nil {
		t.Error(err)
	}
	if n := count(); n != 1 {
		t.Errorf("there are %d copies of the file", n)
	}
}

func TestRepairOfLayersOfNoImage(t *testing.T) {
	b, l := newLedger(t, "overlay")
	b.pull(t, "two", "five")
	b.provision(t, "c", "two")
	for _, name := range []string{"two", "five"} {
		l.forget(store.Record{Reference: name})
	}
	two, five := images["two"].DiffIDs()[1], images["five"].DiffIDs()[0]
	b.flip(t, two, "two")
	b.flip(t, five, "five")
	b.pull(t, "one") // a whole one, which nobody needs, stays
	l.forget(store.Record{Reference: "one"})
	repaired, asked, err := l.repair(t, b)
	wantError(t, err, nil, "repair the store: ", two.String(), "of no recorded image", "containers c ")
	if strings.Contains(err.Error(), five.String()) || len(asked) > 0 {
		t.Errorf("asked is %q: %v", asked, err)
	}
	wantDigests(t, "removed", repaired.Removed, []image.Digest{five})
	if len(repaired.Remained) != 1 || repaired.Remained[0].Layer != two || len(repaired.Fetched) > 0 {
		t.Errorf("repaired are %+v", repaired)
	}
	b.wantInStore(t, layersOfImages("one", "two"))
	b.wantDestroyed(t, "c", true)
	if repaired, _, err := l.repair(t, b); err != nil || !slices.Equal(repaired.Removed, []image.Digest{two}) {
		t.Errorf("repaired are %+v, %v", repaired, err)
	}
	b.wantClean(t, 2)
}

func TestRepairMakesRecordsAgain(t *testing.T) {
	b, l := newLedger(t, "copy")
	b.pull(t, "one", "two", "three")
	broken := images["two"].DiffIDs()[1] // which only the unreadable record has
	b.flip(t, broken, "two")
	l.spoil(t, "two", syscall.EIO)
	repaired, asked, err := l.repair(t, b)
	if err != nil {
		t.Error(err)
	}
	if !slices.Equal(repaired.Images, []string{"two"}) || !slices.Equal(repaired.Fetched, []image.Digest{broken}) {
		t.Errorf("repaired are %+v", repaired)
	}
	if !slices.Equal(asked, []string{"get two", "refetch " + broken.String()}) {
		t.Errorf("the store was asked %q", asked)
	}
	l.wantRecorded(t, "one", "two", "three")
	b.wantClean(t, 5)
}

// What cannot be mended does not keep the rest from it.
func TestRepairMendsWhatItCan(t *testing.T) {
	b, l := newLedger(t, "copy")
	b.pull(t, "one", "two", "three", "five")
	one, five := images["one"].DiffIDs()[0], images["five"].DiffIDs()[0]
	b.flip(t, one, "one")
	b.flip(t, five, "five")
	l.spoil(t, "two", syscall.EIO)
	l.spoil(t, "three", errNewer)
	l.unreadable[0].Reference = ""
	l.failing["refetch "+one.String()] = container.ErrUnavailable
	newer := b.Paths.Layers(id(t, "newer"))
	write(t, newer, `{"version": 2}`)

	repaired, asked, err := l.repair(t, b)
	wantError(t, err, container.ErrUnavailable, "/records/two", "the name of its image is not known", "remove the file",
		"/records/three", "of a newer berth", "`berth destroy newer`", "layer "+one.String()+" is still broken")
	if !slices.Equal(repaired.Fetched, []image.Digest{five}) || len(repaired.Remained) != 1 || repaired.Remained[0].Layer != one {
		t.Errorf("repaired are %+v", repaired)
	}
	if slices.Contains(asked, "get three") {
		t.Errorf("the store was asked %q", asked)
	}
	b.wantInStore(t, layersOfImages("one", "two", "three", "five"))

	l.failing = nil
	l.unreadable[0].Reference, l.unreadable[1].Err = "two", syscall.EIO
	b.wantDestroyed(t, "newer", true)
	if repaired, _, err := l.repair(t, b); err != nil || !slices.Equal(repaired.Images, []string{"two", "three"}) {
		t.Errorf("repaired are %+v, %v", repaired, err)
	}
	b.wantClean(t, 6)
}

// askedStore has nothing, and keeps what it was asked for.
type askedStore struct {
	*ledger
	wanted *v1.Image
}

func (s *askedStore) Get(_ context.Context, img *v1.Image, _ layer.Form) (*store.Image, error) {
	s.wanted = img
	return nil, errNothing
}

// Where the image of a record lies is known of all types.
func TestRepairAsksForImagesOfEachType(t *testing.T) {
	for _, in := range []v1.Image_Type{v1.Image_DOCKER, v1.Image_OCI, v1.Image_APPC} {
		b, l := newLedger(t, "copy")
		b.pull(t, "one")
		l.spoil(t, "one", syscall.EIO)
		l.unreadable[0].Platform = "linux/arm64"
		asked := &askedStore{ledger: l}
		b.Stores[in] = asked
		if in != v1.Image_DOCKER {
			delete(b.Stores, v1.Image_DOCKER)
		}
		_, err := b.Repair(t.Context())
		wantError(t, err, errNothing)
		want := &v1.Image{Type: in.Enum(), Cached: proto.Bool(false), Platform: proto.String("linux/arm64")}
		switch in {
		case v1.Image_DOCKER:
			want.Docker = &v1.Image_Docker{Name: proto.String("one")}
		case v1.Image_OCI:
			want.Oci = &v1.Image_Oci{Name: proto.String("one")}
		case v1.Image_APPC:
			want.Appc = &v1.Image_Appc{Name: proto.String("one")}
		}
		if !proto.Equal(asked.wanted, want) {
			t.Errorf("asked for %v, want %v", asked.wanted, want)
		}
	}
}
