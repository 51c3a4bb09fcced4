package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/filelock"
)

// Form is a way in which a layer lies on disk.
type Form string

const (
	// Tree is a directory in overlayfs's style, for the backends copy, bind, overlay and aufs.
	Tree Form = "tree"
	// EROFS is the tar itself, and an EROFS file system over it that has the contents of its
	// files there (package erofs), for the backend of that name: nothing is unpacked.
	EROFS Form = "erofs"
)

// forms are all, in the order in which they are asked for a tar.
var forms = []Form{EROFS, Tree}

// Info is what is known of a visible layer.
type Info struct {
	Version   int          `json:"version"` // of this record: 1
	DiffID    image.Digest `json:"diffID"`
	Size      int64        `json:"size"`      // bytes of the uncompressed tar
	Entries   int          `json:"entries"`   // of the tar
	Nodes     int          `json:"nodes"`     // below the root of the tree
	Whiteouts int          `json:"whiteouts"` // and opaque markers
	// Implied are the directories that have no entry in the tar, and so no owner, mode
	// and times of their own: where lower layers have them too, theirs count. The root
	// is ".". Names need not be UTF-8, so JSON has them in base64.
	Implied [][]byte `json:"implied,omitempty"`
	// Index is the digest of the index; empty for a form that has none.
	Index image.Digest `json:"index,omitempty"`
	// Disk is how many bytes of the file system the form occupies: what statfs(2) shows
	// to be free once it is removed.
	Disk int64 `json:"disk"`
}

// equal reports whether two records say the same.
func (i Info) equal(other Info) bool {
	return i.Version == other.Version && i.DiffID == other.DiffID && i.Size == other.Size && i.Entries == other.Entries &&
		i.Index == other.Index && i.Nodes == other.Nodes && i.Whiteouts == other.Whiteouts && slices.EqualFunc(i.Implied, other.Implied, bytes.Equal)
}

// Store is the layers below one directory. Several processes may use one directory
// at a time, and several goroutines one Store.
type Store struct {
	dir    string
	limits Limits
	turn   chan struct{} // of one goroutine at a time in lock

	mu      sync.Mutex
	session *session // nil: not in use

	known known
}

// Open returns the store in dir, made with mode 0700 when missing.
func Open(dir string, limits Limits) (*Store, error) {
	s := &Store{dir: filepath.Clean(dir), limits: limits, turn: make(chan struct{}, 1)}
	for _, sub := range []string{s.layers(), s.leases(), s.staging()} {
		if err := disk.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("open layer store: %w", err)
		}
	}
	s.makeSpare()
	return s, nil
}

// makeSpare makes the file that is in the place of a new one where there is no room for
// that (leaseFile). There may be none for this one either.
func (s *Store) makeSpare() {
	if f, err := disk.OpenFile(s.spareFile(), os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
		f.Close()
	}
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

const layersDir = "/layers"

// These are put together for each layer of each launch, of parts that have nothing to
// clean.
func (s *Store) layers() string  { return s.dir + layersDir }
func (s *Store) leases() string  { return s.dir + "/leases" }
func (s *Store) staging() string { return s.dir + "/staging" }

func (s *Store) sessionFile() string { return s.dir + "/session" }
func (s *Store) openFile() string    { return s.dir + "/open" }
func (s *Store) spareFile() string   { return s.dir + "/spare" }

func (s *Store) layerDir(id image.Digest) string { return s.dir + layersDir + "/" + string(id) }

func (s *Store) formDir(id image.Digest, form Form) string {
	return s.dir + layersDir + "/" + string(id) + "/" + string(form)
}

// Path returns where a backend finds the content of a layer in the given form. For
// Tree it is the directory to stack, for EROFS the one with the files tar and index.
func (s *Store) Path(id image.Digest, form Form) string {
	if form == EROFS {
		return s.formDir(id, form)
	}
	return s.formDir(id, form) + "/" + contentDir
}

// Forms returns the forms in which a layer is visible; none is no error.
func (s *Store) Forms(id image.Digest) (visible []Form, err error) {
	names, _, err := s.forms(id)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", id, err)
	}
	for _, form := range forms {
		if slices.Contains(names, string(form)) {
			visible = append(visible, form)
		}
	}
	return visible, nil
}

// Info reads the record of a visible layer. The error is of class ErrNotFound when
// the layer is absent in that form.
func (s *Store) Info(id image.Digest, form Form) (Info, error) {
	dir := s.formDir(id, form)
	f, err := s.known.of(dir)
	if err == nil && f.info != nil {
		return *f.info, nil
	}
	info, readErr := s.readInfo(id, dir)
	if readErr == nil && err == nil {
		f.info = &info
		s.known.remember(dir, f)
	}
	return info, readErr
}

// InfoOfAny is Info for what all forms have in common: the tar.
func (s *Store) InfoOfAny(id image.Digest) (Info, error) {
	visible, err := s.Forms(id)
	if err != nil {
		return Info{}, err
	}
	if len(visible) == 0 {
		return Info{}, fmt.Errorf("layer %s: %w in the store", id, container.ErrNotFound)
	}
	return s.Info(id, visible[0])
}

func (s *Store) readInfo(id image.Digest, dir string) (Info, error) {
	data, err := disk.ReadFile(filepath.Join(dir, infoFile))
	if isNotExist(err) {
		return Info{}, fmt.Errorf("layer %s: %w in the form %s", id, container.ErrNotFound, filepath.Base(dir))
	}
	var info Info
	if err == nil {
		info, err = parseInfo(data)
	}
	if err != nil {
		return info, fmt.Errorf("layer %s: read record: %w", id, err)
	}
	return info, nil
}

// List returns the diffIDs of the layers that are visible in some form.
func (s *Store) List() ([]image.Digest, error) {
	entries, err := disk.ReadDir(s.layers())
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var ids []image.Digest
	for _, e := range entries {
		id, err := image.ParseDigest(e.Name())
		if err != nil {
			continue // not ours
		}
		visible, err := s.Forms(id)
		if err != nil {
			return nil, fmt.Errorf("list layers: %w", err)
		}
		if len(visible) > 0 {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// lock takes the store's lock. Who wants it alone would never get it as long as there is
// always somebody who shares it, so everybody goes through the gate first, and who wants
// it alone keeps the gate shut while the others leave. The goroutines of a process take
// turns there: of many that poll, some would be unlucky for long. Nobody who holds the
// lock may want it again.
func (s *Store) lock(ctx context.Context, mode filelock.Mode) (_ *filelock.Lock, err error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the lock of %s: %w", s.dir, context.Cause(ctx))
	}
	gate, err := filelock.Acquire(ctx, filepath.Join(s.dir, "gate"), filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	lock, err := filelock.Acquire(ctx, filepath.Join(s.dir, "lock"), mode)
	if err := gate.Unlock(); err != nil && lock != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return lock, err
}
