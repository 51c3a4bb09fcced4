package layer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/filelock"
)

// Form is a way in which a layer lies on disk.
type Form string

// Tree is a directory in overlayfs's style, for the backends copy, bind and overlay.
const Tree Form = "tree"

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
}

// equal reports whether two records say the same.
func (i Info) equal(other Info) bool {
	return i.Version == other.Version && i.DiffID == other.DiffID && i.Size == other.Size && i.Entries == other.Entries &&
		i.Nodes == other.Nodes && i.Whiteouts == other.Whiteouts && slices.EqualFunc(i.Implied, other.Implied, bytes.Equal)
}

// Store is the layers below one directory. Several processes may use one directory
// at a time, and several goroutines one Store.
type Store struct {
	dir    string
	limits Limits
}

// Open returns the store in dir, made with mode 0700 when missing.
func Open(dir string, limits Limits) (*Store, error) {
	s := &Store{dir: dir, limits: limits}
	for _, sub := range []string{s.layers(), s.leases(), s.staging()} {
		if err := disk.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("open layer store: %w", err)
		}
	}
	return s, nil
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

func (s *Store) layers() string  { return filepath.Join(s.dir, "layers") }
func (s *Store) leases() string  { return filepath.Join(s.dir, "leases") }
func (s *Store) staging() string { return filepath.Join(s.dir, "staging") }

func (s *Store) formDir(id image.Digest, form Form) string {
	return filepath.Join(s.layers(), id.String(), string(form))
}

// Path returns where a backend finds the content of a layer in the given form. For
// Tree it is the directory to stack.
func (s *Store) Path(id image.Digest, form Form) string {
	return filepath.Join(s.formDir(id, form), "fs")
}

// Info reads the record of a visible layer. The error is of class ErrNotFound when
// the layer is absent in that form.
func (s *Store) Info(id image.Digest, form Form) (Info, error) {
	var info Info
	data, err := disk.ReadFile(filepath.Join(s.formDir(id, form), "info.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return info, fmt.Errorf("layer %s: %w in the form %s", id, container.ErrNotFound, form)
	}
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		return info, fmt.Errorf("layer %s: read record: %w", id, err)
	}
	if info.Version != 1 {
		return info, fmt.Errorf("layer %s: record of version %d: %w: it was written by a newer berth",
			id, info.Version, container.ErrNotSupported)
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
		if id, err := image.ParseDigest(e.Name()); err == nil && s.visible(id, Tree) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// visible reports whether the layer can be used. The directory of a form appears
// only by the rename of Commit, so its presence is the proof.
func (s *Store) visible(id image.Digest, form Form) bool {
	_, err := os.Lstat(s.formDir(id, form))
	return err == nil
}

func (s *Store) lock(ctx context.Context, mode filelock.Mode) (*filelock.Lock, error) {
	return filelock.Acquire(ctx, filepath.Join(s.dir, "lock"), mode)
}
