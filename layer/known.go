package layer

import (
	"io/fs"
	"os"
	"sync"

	"berth/internal/disk"
)

// known is what a Store in use remembers of forms, so that not every launch reads them
// again: a layer that was free of doubt stays so until the end of the session, and what
// its Info says follows from its digest. It is known of one directory: another one of the
// same name is another copy.
type known struct {
	mu    sync.Mutex
	forms map[string]knownForm // by the path of the form
}

// maxKnown bounds them: nobody says when one is gone.
const maxKnown = 10_000

type knownForm struct {
	dir     fs.FileInfo
	present bool  // and free of doubt
	info    *Info // nil: not read yet
}

// of returns what is known of the form that is there now. The error is that of lstat(2).
func (k *known) of(form string) (knownForm, error) {
	dir, err := disk.Lstat(form)
	if err != nil {
		return knownForm{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.forms[form]
	if f.dir == nil || !os.SameFile(f.dir, dir) || !f.dir.ModTime().Equal(dir.ModTime()) {
		return knownForm{dir: dir}, nil
	}
	return f, nil
}

// remember keeps what was found out about a form after of.
func (k *known) remember(form string, f knownForm) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forms == nil || len(k.forms) >= maxKnown {
		k.forms = make(map[string]knownForm)
	}
	k.forms[form] = f
}

func (k *known) forgetAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forms = nil
}
