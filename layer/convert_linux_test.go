package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/image"
	"berth/internal/readahead"
)

// converted converts layers in a lease of its own and returns those that it could not.
func converted(t *testing.T, s *Store, form Form, superseded bool, ids ...image.Digest) []image.Digest {
	t.Helper()
	ctx := context.Background()
	l := newLease(t, s)
	defer release(t, l)
	if superseded {
		l.Supersede(form, ids...)
	}
	missing, err := l.Hold(ctx, form, ids)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := l.Convert(ctx, form, missing)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	return rest
}

func TestConvert(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	id := addLayer(t, s, blob).DiffID
	absent := image.DigestOf([]byte("in no form"))
	if rest := converted(t, s, EROFS, false, id, absent); len(rest) != 1 || rest[0] != absent {
		t.Fatalf("could not be converted: %v, want the one that is not there", rest)
	}
	wantClean(t, s, id)
	wantSameTrees(t, s, id)
	// The tree is gone, as after a change of the backend, and is made again of the tar.
	if err := os.RemoveAll(s.formDir(id, Tree)); err != nil {
		t.Fatal(err)
	}
	var tar bytes.Buffer
	if err := s.WriteTar(context.Background(), id, &tar); err != nil || !bytes.Equal(tar.Bytes(), blob) {
		t.Errorf("the tar of the form EROFS is not the one that it was made of: %v", err)
	}
	if rest := converted(t, s, Tree, false, id); len(rest) > 0 {
		t.Errorf("could not be converted back: %v", rest)
	}
	wantClean(t, s, id)
}

// A broken form is made again of what is whole: an index of its tar, a tar of the tree.
func TestABrokenFormIsMadeAgain(t *testing.T) {
	for _, c := range []struct {
		broken string
		tree   bool // there is one
		makes  bool
	}{
		{IndexFile, false, true},
		{infoFile, false, true},
		{TarFile, false, false},
		{TarFile, true, true},
	} {
		s := newStore(t, testLimits)
		id := addLayer(t, s, archive(specimen...)).DiffID
		converted(t, s, EROFS, false, id)
		if !c.tree {
			if err := os.RemoveAll(s.formDir(id, Tree)); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(s.formDir(id, EROFS), c.broken)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, spoilt(data, len(data)/2), 0o600); err != nil {
			t.Fatal(err)
		}
		problems, err := s.Check(context.Background(), id, EROFS)
		if err != nil || len(problems) != 1 {
			t.Errorf("%s is broken, and check says %v, %v", c.broken, problems, err)
		}
		if rest := converted(t, s, EROFS, true, id); (len(rest) == 0) != c.makes {
			t.Errorf("%s is broken, and could not be made again: %v", c.broken, rest)
		}
		if c.makes {
			wantClean(t, s, id)
		}
	}
}

// A tar may end with the content of its last file, in the middle of a block: the kernel reads
// whole blocks.
func TestATarThatEndsInMidBlock(t *testing.T) {
	for _, size := range []int{1, 511, 512, 513, 5000} {
		s := newStore(t, testLimits)
		whole := archive(file("a", "first"), file("b", strings.Repeat("x", size)))
		blob := whole[:len(whole)-1024-(512-size%512)%512] // without the end and the padding
		id := addLayer(t, s, blob).DiffID
		converted(t, s, EROFS, false, id)
		wantClean(t, s, id)
		wantSameTrees(t, s, id)
	}
}

// Where the end of a large file is in the index, its chunks must not be too many.
func TestATarThatEndsInMidBlockOfALargeFile(t *testing.T) {
	const size, end = 1<<29 + 700, 700
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Name: "large", Mode: 0o644, Size: size, Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	want := bytes.Repeat([]byte("x"), end)
	_, err = file.WriteAt(header.Bytes(), 0)
	if _, err2 := file.WriteAt(want, int64(header.Len())+size-end); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	stream := readahead.New(readahead.Buffered(file), readahead.Options{Buffers: 2, Size: 1 << 20})
	defer stream.Close()
	made, info, err := index(stream, file, nil, &budget{limits: DefaultLimits})
	if err != nil || info.Size != int64(header.Len())+size {
		t.Fatalf("%+v, %v", info, err)
	}
	var written bytes.Buffer
	if err := made.Write(&written, info.Size); err != nil {
		t.Fatal(err)
	}
	if got := bytes.TrimRight(written.Bytes(), "\x00"); !bytes.HasSuffix(got, want) {
		t.Errorf("the index of %d bytes does not end with what the file ends with", len(got))
	}
}
