package fetch

import (
	"errors"
	"os"
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
