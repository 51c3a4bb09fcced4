package erofs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/layer"
	"berth/provisioner/backend"
	"berth/state"
)

// use is a layer that a root filesystem has.
type use struct {
	key   string
	layer backend.Layer
}

func (u use) index() string { return filepath.Join(u.layer.Path, layer.IndexFile) }
func (u use) tar() string   { return filepath.Join(u.layer.Path, layer.TarFile) }

// usesOf returns the layers, each once, with their keys: the name of the layer, and the
// inode of its index, so that a copy that took another one's place is not mistaken for that.
func usesOf(layers []backend.Layer) (uses []use, err error) {
	for _, l := range backend.TopFirst(layers) {
		u := use{layer: l}
		st, err := disk.Statx(unix.AT_FDCWD, u.index(), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO)
		if err != nil {
			return nil, &fs.PathError{Op: "statx", Path: u.index(), Err: err}
		}
		u.key = fmt.Sprintf("%s-%x-%d", filepath.Base(filepath.Dir(l.Path)), unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino)
		uses = append(uses, u)
	}
	return uses, nil
}

// recordEnd is the last line of a record: one that a power cut has torn has none.
const recordEnd = "end\n"

func recordPath(rootfs, dir string) string {
	return filepath.Join(state.Scratch(dir, rootfs), "mounts")
}

// record writes which mounts a root filesystem may use.
func record(uses []use, rootfs, dir string) error {
	var text strings.Builder
	for _, u := range uses {
		text.WriteString(u.key + "\n")
	}
	text.WriteString(recordEnd)
	return disk.WriteFile(recordPath(rootfs, dir), []byte(text.String()), 0o600)
}

// recorded returns the mounts that a root filesystem may use: when its record is torn, all.
func (m mounts) recorded(rootfs, dir string) ([]string, error) {
	data, err := disk.ReadFile(recordPath(rootfs, dir))
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if text, whole := strings.CutSuffix(string(data), recordEnd); whole {
		return strings.Fields(text), nil
	}
	entries, err := disk.ReadDir(m.dir)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all, nil
}

func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
