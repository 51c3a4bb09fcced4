package layer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"berth/container"
	"berth/image"
	"berth/internal/mount"
	"berth/internal/testrig"
)

// arena unpacks hostile archives one after another and watches what they do.
type arena struct {
	store  *Store
	before map[string]string // what lies beside the store
}

func newArena(t testing.TB) *arena {
	s := newStore(t, Limits{Entries: 500, NameBytes: 64 << 10, Index: 8 << 20, Base: 1 << 20, Ratio: 20, Depth: 64})
	canary := filepath.Join(filepath.Dir(s.Dir()), "outside")
	if err := os.Mkdir(canary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(canary, "canary"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &arena{store: s}
	a.before = a.beside(t)
	return a
}

func (a *arena) beside(t reporter) map[string]string {
	around := filepath.Dir(a.store.Dir())
	seen := look(t, filepath.Join(around, "outside"))
	entries, err := os.ReadDir(around)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		seen["beside/"+e.Name()] = "there"
	}
	return seen
}

// try unpacks a blob in both forms. Either it is refused with an error of a class, or the
// layer is clean, that is, the very same tar can be made of it again; and both forms show the
// same. It returns the error of the tree.
func (a *arena) try(t reporter, blob []byte) error {
	info, err := a.tryForm(t, Tree, blob)
	asEROFS, erofsErr := a.tryForm(t, EROFS, blob)
	switch {
	case err == nil && erofsErr == nil:
		info.Disk, asEROFS.Disk, asEROFS.Index = 0, 0, ""
		if !info.equal(asEROFS) {
			t.Errorf("the record of the tree is %+v, that of the form EROFS %+v", info, asEROFS)
		}
		wantSameTrees(t, a.store, info.DiffID)
	case err == nil && !errors.Is(erofsErr, container.ErrNotSupported):
		t.Errorf("in the form EROFS it is refused: %v", erofsErr)
	case erofsErr == nil && !onlyTheKernel(err):
		t.Errorf("in the form EROFS it is not refused with: %v", err)
	}
	sweep(t, a.store)
	wantEmpty(t, a.store)
	wantTree(t, a.beside(t), a.before)
	return err
}

// onlyTheKernel reports whether a tar was refused for what the file system of the store cannot
// hold, or what the kernel changes when it is written.
func onlyTheKernel(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) ||
		strings.Contains(err.Error(), "the kernel does not keep its attributes")
}

// wantSameTrees compares the tree of a layer with what the kernel shows of the form EROFS.
func wantSameTrees(t reporter, s *Store, id image.Digest) {
	t.Helper()
	at, err := os.MkdirTemp("", "berth-erofs-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(at)
	dir := s.Path(id, EROFS)
	mounted, err := mount.EROFS{Index: filepath.Join(dir, IndexFile), Device: filepath.Join(dir, TarFile)}.Mount()
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	if err := mounted.Attach(at); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH) // its descriptor is still open
	want, err := testrig.Manifest(s.Path(id, Tree))
	if err != nil {
		t.Fatal(err)
	}
	got, err := testrig.Manifest(at)
	if err != nil {
		t.Fatal(err)
	}
	whiteouts := make(map[string]bool)
	for _, e := range want {
		whiteouts[e.Path] = e.Type == unix.S_IFCHR && e.Rdev == "0:0"
	}
	anyTime := testrig.Exception{Field: testrig.MTime, Path: func(path string) bool { return whiteouts[path] }, Reason: "a tree's are of when they were made"}
	for _, line := range testrig.Compare(want, got, anyTime) {
		t.Errorf("in the form EROFS: %s", line)
	}
}

func (a *arena) tryForm(t reporter, form Form, blob []byte) (Info, error) {
	ctx := context.Background()
	l := newLease(t, a.store)
	info, err := l.Unpack(ctx, form, "", bytes.NewReader(blob))
	if err == nil {
		if err := l.Commit(ctx); err != nil {
			t.Errorf("commit: %v", err)
		}
		problems, err := a.store.Check(ctx, info.DiffID, form)
		if err != nil {
			t.Errorf("check: %v", err)
		}
		for _, p := range problems {
			t.Errorf("check of the form %s: %s", form, p)
		}
	} else if !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported) && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error of no class: %v", err) // ENOSPC: more attributes than an inode of ext4 has room for
	}
	release(t, l)
	return info, err
}

// Few names, so that entries meet each other.
var (
	anyComponent = rapid.SampledFrom([]string{"a", "a", "b", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh..wh.plnk", ".wh.", ".", "..", "", "\xff"})
	anyName      = rapid.Custom(func(t *rapid.T) string {
		name := anyComponent.Draw(t, "component")
		for range rapid.IntRange(0, 3).Draw(t, "depth") {
			name += "/" + anyComponent.Draw(t, "component")
		}
		return name
	})
	anyRecord = rapid.SampledFrom([]string{
		"mtime=1.5", "mtime=-3.25", "mtime=99999999999", "uid=5", "gid=4294967295", "path=a/b", "linkpath=a", "size=3", "comment=x",
		paxXattr + "user.x=y", paxXattr + "trusted.x=y", paxXattr + "trusted.overlay.opaque=y", paxXattr + "security.capability=x",
		paxXattr + "system.posix_acl_access=" + acl(6), paxXattr + "system.posix_acl_default=" + acl(6), paxXattr + "nonsense=x",
		"GNU.sparse.map=0,1,4096,1", "GNU.sparse.numblocks=2", "GNU.sparse.size=5000", "GNU.sparse.major=1", "GNU.sparse.minor=0",
	})
	anyMember = rapid.Custom(func(t *rapid.T) member {
		return member{
			name:  anyName.Draw(t, "name"),
			typ:   rapid.SampledFrom([]byte("000000\x0011223455555567gS")).Draw(t, "type"),
			link:  anyName.Draw(t, "link"),
			mode:  rapid.SampledFrom([]int64{0o644, 0o755, 0o4755, 0o1777, 0, 0o100664, -1}).Draw(t, "mode"),
			uid:   rapid.SampledFrom([]int64{0, 0, 1000, 1<<32 - 2, 1 << 32, -1}).Draw(t, "uid"),
			mtime: rapid.SampledFrom([]int64{0, 1e9, -1, 1 << 40, -1 << 40}).Draw(t, "mtime"),
			major: rapid.SampledFrom([]int64{0, 1, 4096}).Draw(t, "major"),
			minor: rapid.SampledFrom([]int64{0, 3, 1 << 20}).Draw(t, "minor"),
			body:  rapid.SampledFrom([]string{"", "", "x", "xyz", string(make([]byte, 600))}).Draw(t, "body"),
			pax:   rapid.SliceOfN(anyRecord, 0, 3).Draw(t, "pax"),
		}
	})
)

// Whatever is accepted can be made again, byte by byte.
func TestEveryAcceptedTarIsReproduced(t *testing.T) {
	a := newArena(t)
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		// Start with what is mostly accepted, so that the rest meets something.
		base := rapid.SampledFrom(legitTars).Draw(rt, "base").members
		more := rapid.SliceOfN(anyMember, 0, 4).Draw(rt, "more")
		if a.try(rt, archive(append(append([]member(nil), base...), more...)...)) == nil && len(more) > 0 {
			accepted++
		}
	})
	if accepted == 0 {
		t.Error("no archive with random entries was accepted: the test proves nothing")
	}
}

// FuzzUnpack feeds bytes as they come. The checksums of headers are made right, or
// nothing would get past them.
func FuzzUnpack(f *testing.F) {
	for _, c := range legitTars {
		f.Add(archive(c.members...))
	}
	for _, c := range hostileTars {
		if blob := archive(c.members...); len(blob) < 64<<10 {
			f.Add(blob)
		}
	}
	f.Add(gzipped(f, archive(specimen...)))
	f.Add(zstded(f, archive(specimen...)))
	a := newArena(f)
	f.Fuzz(func(t *testing.T, blob []byte) {
		if len(blob) > 1<<20 {
			t.Skip("larger than any seed")
		}
		a.try(t, withChecksums(blob))
	})
}

func withChecksums(blob []byte) []byte {
	blob = bytes.Clone(blob)
	for at := 0; at+512 <= len(blob); at += 512 {
		if h := blob[at : at+512]; string(h[257:262]) == "ustar" {
			setChecksum(h)
		}
	}
	return blob
}
