package erofs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/layer"
	"berth/provisioner/backend"
)

// stack is the layers of all root filesystems that have just these.
type stack struct {
	name   string // the same for the same layers
	layers []keyed
}

// keyed is a layer with a name for its copy: that of the layer, and the inode of its index,
// so that a copy that took another one's place is not mistaken for that.
type keyed struct {
	key  string
	path string
}

func (l keyed) index() string { return l.path + "/" + layer.IndexFile }
func (l keyed) tar() string   { return l.path + "/" + layer.TarFile }

// stackOf returns the stack of the layers, each once.
func stackOf(layers []backend.Layer) (s stack, err error) {
	name := sha256.New()
	for _, l := range backend.TopFirst(layers) {
		k := keyed{path: l.Path}
		st, err := disk.Statx(unix.AT_FDCWD, k.index(), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO)
		if err != nil {
			return stack{}, &fs.PathError{Op: "statx", Path: k.index(), Err: err}
		}
		k.key = filepath.Base(filepath.Dir(l.Path)) + "-" + strconv.FormatUint(unix.Mkdev(st.Dev_major, st.Dev_minor), 16) + "-" + strconv.FormatUint(st.Ino, 10)
		io.WriteString(name, k.key+"\n")
		s.layers = append(s.layers, k)
	}
	s.name = hex.EncodeToString(name.Sum(nil)[:16])
	return s, nil
}

// of returns layers of the stack, but each where it is mounted.
func (s stack) of(layers []backend.Layer, m mounts) []backend.Layer {
	points := make(map[string]string, len(s.layers))
	for _, l := range s.layers {
		points[l.path] = m.layer(s.name, l.key)
	}
	layers = slices.Clone(layers)
	for i := range layers {
		layers[i].Path = points[layers[i].Path]
	}
	return layers
}

func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
