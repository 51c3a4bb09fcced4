package fetch

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"berth/image"
)

func TestWhatNobodyComesBackForIsRemoved(t *testing.T) {
	p := Partials{t.TempDir()}
	d := image.Descriptor{Digest: image.DigestOf(nil), Size: keepFrom}
	kept := p.open(d)
	kept.add([]byte("abc"))
	if other := p.open(d); other.lock != nil || other.beginning() != nil {
		t.Error("two write one file")
	}
	later := time.Now().Add(keepFor + time.Minute)
	p.expire(later)
	if _, err := os.Stat(kept.path); err != nil {
		t.Error("what is being written was removed")
	}
	kept.close()
	p.expire(time.Now())
	if again := p.open(d); again.size != 3 {
		t.Errorf("%d bytes are kept", again.size)
	} else {
		again.close()
	}
	p.expire(later)
	if _, err := os.Stat(kept.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestWhatNobodyCarriesOnIsAbandoned(t *testing.T) {
	dir := t.TempDir()
	s := &Store{records: records{dir: filepath.Join(dir, "images")}, partials: Partials{filepath.Join(dir, "partial")}}
	if abandoned, err := s.Abandoned(false); len(abandoned) > 0 || err != nil {
		t.Errorf("without a directory: %v, %v", abandoned, err)
	}
	keep := func(content string) *partial {
		kept := s.partials.open(image.Descriptor{Digest: image.DigestOf([]byte(content)), Size: keepFrom})
		kept.add([]byte(content))
		return kept
	}
	busy, left := keep("busy"), keep("left")
	left.close()
	stranger := filepath.Join(s.partials.dir, "notes.txt")
	must(os.WriteFile(stranger, []byte("mine"), 0o600))
	directory := filepath.Join(s.partials.dir, image.DigestOf([]byte("directory")).Hex())
	must(os.Mkdir(directory, 0o700))
	s.partials.expire(time.Now().Add(2 * keepFor)) // removes left, which comes back
	keep("left").close()
	for _, dryRun := range []bool{true, true, false} {
		abandoned, err := s.Abandoned(dryRun)
		if err != nil || len(abandoned) != 1 || abandoned[0].Blob != image.DigestOf([]byte("left")) || abandoned[0].Bytes <= 0 {
			t.Errorf("dry run %v: %v, %v", dryRun, abandoned, err)
		}
	}
	if abandoned, err := s.Abandoned(false); len(abandoned) > 0 || err != nil {
		t.Errorf("once more: %v, %v", abandoned, err)
	}
	if _, err := os.Stat(busy.path); err != nil {
		t.Errorf("what is being written: %v", err)
	}
	if unknown, err := s.Unknown(); err != nil || !slices.Equal(unknown, []string{directory, stranger}) {
		t.Errorf("unknown are %q, %v", unknown, err)
	}
	busy.close()
}
