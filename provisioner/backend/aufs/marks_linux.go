package aufs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/attributes"
	"berth/internal/disk"
	"berth/provisioner/backend"
)

// marks is what a layer hides of those below it, as the names of aufs's marks.
type marks struct {
	whiteouts []string // that stand above the layer
	opaques   []string // that stand below it
}

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

// marksOf reads the marks of layers, topmost first.
func marksOf(layers []backend.Layer) ([]marks, error) {
	all := make([]marks, len(layers))
	for i, l := range layers {
		if l.Whiteouts {
			if err := all[i].read(l.Path, "."); err != nil {
				return nil, err
			}
		}
	}
	m := merger{layers: layers, marks: all}
	everywhere := make([]int, len(layers))
	for i := range everywhere {
		everywhere[i] = i
	}
	return all, m.merge(".", everywhere)
}

// read adds the marks that the layer has in a directory and below it.
func (m *marks) read(layer, dir string) error {
	entries, err := disk.ReadDir(filepath.Join(layer, dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		hides, err := isWhiteout(layer, name, e)
		switch {
		case err != nil:
			return err
		case hides:
			if len(e.Name()) > unix.NAME_MAX-len(whiteoutPrefix) {
				return fmt.Errorf("%w: the image removes a file whose name has %d bytes, aufs can hide one of %d; %s",
					container.ErrInvalid, len(e.Name()), unix.NAME_MAX-len(whiteoutPrefix), remedy)
			}
			m.whiteouts = append(m.whiteouts, filepath.Join(dir, whiteoutPrefix+e.Name()))
		case e.IsDir():
			if err := m.readOpaque(layer, name); err != nil {
				return err
			}
			if err := m.read(layer, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *marks) readOpaque(layer, dir string) error {
	opaque, err := isOpaque(layer, dir)
	if opaque {
		m.opaques = append(m.opaques, filepath.Join(dir, opaqueName))
	}
	return err
}

func isOpaque(layer, dir string) (bool, error) {
	opaque, err := attributes.IsOpaque(attributes.Path(filepath.Join(layer, dir)))
	if err != nil {
		return false, &os.PathError{Op: "read", Path: filepath.Join(layer, dir), Err: err}
	}
	return opaque, nil
}

func isWhiteout(layer, name string, e fs.DirEntry) (bool, error) {
	if e.Type()&fs.ModeCharDevice == 0 {
		return false, nil
	}
	var st unix.Stat_t
	path := filepath.Join(layer, name)
	if err := disk.Fstatat(unix.AT_FDCWD, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st.Rdev == 0, nil
}

// merger looks at the directories that several layers have.
//
// Where a layer has a directory, one below it a file in its place, and another below that
// a directory again, aufs overlooks the file: the upper directory is to be opaque there.
// And of marks that are hidden themselves there are to be none: from several opaque
// directories on one another aufs may take the wrong one.
type merger struct {
	layers []backend.Layer
	marks  []marks
}

// merge looks at a directory that the layers, topmost first, make together.
func (m *merger) merge(dir string, layers []int) error {
	if len(layers) < 2 {
		return nil
	}
	// The layers that have a name, and as what.
	directories, others := make(map[string][]int), make(map[string][]int)
	for _, i := range layers {
		entries, err := disk.ReadDir(filepath.Join(m.layers[i].Path, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.IsDir() {
				directories[e.Name()] = append(directories[e.Name()], i)
			} else {
				others[e.Name()] = append(others[e.Name()], i)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(directories)) {
		path, having := filepath.Join(dir, name), directories[name]
		seen, err := m.seen(path, having, others[name])
		if err != nil {
			return err
		}
		for _, hidden := range having[seen:] {
			m.marks[hidden].forget(path)
		}
		if err := m.merge(path, having[:seen]); err != nil {
			return err
		}
	}
	return nil
}

// seen returns how many of the layers that have a directory show theirs. others have
// something else in its place.
func (m *merger) seen(dir string, having, others []int) (int, error) {
	for n, layer := range having {
		if len(others) > 0 && others[0] < layer {
			if n > 0 {
				upper := &m.marks[having[n-1]]
				upper.opaques = append(upper.opaques, filepath.Join(dir, opaqueName))
			}
			return n, nil
		}
		opaque, err := isOpaque(m.layers[layer].Path, dir)
		if opaque || err != nil {
			return n + 1, err
		}
	}
	return len(having), nil
}

// forget drops the marks in a directory and below it.
func (m *marks) forget(dir string) {
	below := func(name string) bool { return strings.HasPrefix(name, dir+"/") }
	m.whiteouts = slices.DeleteFunc(m.whiteouts, below)
	m.opaques = slices.DeleteFunc(m.opaques, below)
}

// writeBranch makes, in dir, the files that are the marks of a layer, in directories that
// look like those of the layer: what stands above it is what is seen of them. Without
// marks it makes nothing.
func writeBranch(dir, layer string, marks []string) error {
	if len(marks) == 0 {
		return nil
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	directories := parents(marks)
	for _, d := range directories {
		if err := disk.Mkdir(filepath.Join(dir, d), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, mark := range marks {
		if err := disk.WriteFile(filepath.Join(dir, mark), nil, 0o444); err != nil {
			return err
		}
	}
	// Last, and the deepest first: what was made in a directory has changed its times.
	for _, d := range slices.Backward(directories) {
		to := attributes.Path(filepath.Join(dir, d))
		err := attributes.Clear(to)
		if err == nil {
			err = attributes.Copy(attributes.Path(filepath.Join(layer, d)), to)
		}
		if err != nil {
			return fmt.Errorf("give %s the attributes of that of the layer: %w", filepath.Join(dir, d), err)
		}
	}
	return nil
}

// parents returns the directories that names lie in, those above others first, the root
// among them.
func parents(names []string) []string {
	seen := map[string]bool{".": true}
	for _, name := range names {
		for dir := filepath.Dir(name); !seen[dir]; dir = filepath.Dir(dir) {
			seen[dir] = true
		}
	}
	var dirs []string
	for dir := range seen {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs) // a prefix sorts before what it begins
	return dirs
}
