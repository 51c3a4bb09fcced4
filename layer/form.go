package layer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
)

// What is in the directory of a form.
const (
	contentDir = "fs"        // of Tree
	splitFile  = "split.zst" // of Tree
	infoFile   = "info.json"
	epochFile  = "epoch"
)

// What the form EROFS has in the directory that Path returns.
const (
	TarFile   = "tar"
	IndexFile = "index"
)

// supersededPrefix begins the names of copies that were replaced, beside the form, and
// for a moment of those that are about to replace one.
const supersededPrefix = "superseded-"

func newSuperseded() string { return supersededPrefix + rand.Text() }

// isForm reports whether a name in the directory of a layer is that of a form or of a
// copy of one. Others are not the store's.
func isForm(name string) bool {
	return slices.Contains(forms, Form(name)) || isSuperseded(name)
}

func isSuperseded(name string) bool { return strings.HasPrefix(name, supersededPrefix) }

// seal completes a form in staging: its record and its epoch are added.
func (s *Store) seal(ctx context.Context, dir string, info Info) (Info, error) {
	epoch, err := s.epoch(ctx)
	if err != nil {
		return info, err
	}
	beside, err := occupiedBeside(dir)
	if err != nil {
		return info, fmt.Errorf("measure the layer: %w", err)
	}
	info.Disk += beside
	data, err := json.Marshal(info)
	if err != nil {
		return info, err
	}
	if err := disk.WriteFile(filepath.Join(dir, infoFile), append(data, '\n'), 0o600); err != nil {
		return info, err
	}
	return info, disk.WriteFile(filepath.Join(dir, epochFile), []byte(epoch+"\n"), 0o600)
}

func parseInfo(data []byte) (Info, error) {
	var info Info
	if err := json.Unmarshal(data, &info); err != nil {
		return info, err
	}
	if info.Version != 1 {
		return info, fmt.Errorf("record of version %d: %w: it was written by a newer berth", info.Version, container.ErrNotSupported)
	}
	return info, nil
}

// presence is what a look tells of a layer.
type presence int

const (
	absent presence = iota
	doubtful
	present
)

// look tells whether a layer is visible and, by its epoch, whether it may be damaged.
func (s *Store) look(id image.Digest, form Form, epoch string) presence {
	_, there := s.lookAt(id, form, epoch)
	return there
}

// lookAt is look, and returns what is known of a layer that is present.
func (s *Store) lookAt(id image.Digest, form Form, epoch string) (knownForm, presence) {
	dir := s.formDir(id, form)
	f, err := s.known.of(dir)
	switch {
	case isNotExist(err):
		return f, absent
	case f.present:
		return f, present
	}
	data, err := disk.ReadFile(filepath.Join(dir, epochFile))
	switch {
	case err == nil && string(data) == epoch+"\n":
		f.present = true
		s.known.remember(dir, f)
		return f, present
	case err != nil && !s.visible(id, form):
		return f, absent
	}
	return f, doubtful
}

// visible reports whether the layer is there. The directory of a form appears only by
// the rename of Commit, so its presence is the proof.
func (s *Store) visible(id image.Digest, form Form) bool {
	_, err := disk.Lstat(s.formDir(id, form))
	return !isNotExist(err)
}

// isNotExist is true of ENOTDIR, too: no name is below what is no directory.
func isNotExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
