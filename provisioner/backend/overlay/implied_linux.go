package overlay

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/provisioner/backend"
)

// overlayfs shows a directory with the attributes of the topmost layer that has it,
// also when that layer has it only because names go through it. Such a directory gets,
// in the upper layer, the attributes that the layers below give it.

// restoreImplied does so for all directories of the mounted root filesystem but its
// root, which is the upper directory itself.
func restoreImplied(layers []backend.Layer, rootfs string) error {
	var names []string
	for _, l := range layers[1:] {
		names = append(names, l.Implied...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	// What lies deeper first: its copy in the upper layer is made in its parent's.
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, name := range names {
		if name == "." {
			continue
		}
		from, err := attributesOf(layers, name)
		if err != nil {
			return err
		}
		if from == "" {
			continue
		}
		if err := copyAttributes(from, filepath.Join(rootfs, name)); err != nil {
			return err
		}
	}
	return nil
}

// attributesOf returns the directory of a layer whose attributes name is to have; empty
// when the topmost layer that says something says that there is no such directory.
func attributesOf(layers []backend.Layer, name string) (from string, err error) {
	for _, l := range slices.Backward(layers) {
		has, hides, err := look(l.Path, name)
		if err != nil {
			return "", err
		}
		if has {
			from = filepath.Join(l.Path, name)
			if !slices.Contains(l.Implied, name) {
				return from, nil
			}
		}
		if hides {
			return from, nil
		}
	}
	return from, nil
}

// look reports whether a layer has the directory name, and whether it hides what lower
// layers have there.
func look(layer, name string) (has, hides bool, err error) {
	path, target := layer, filepath.Join(layer, name)
	for component := range strings.SplitSeq(name, "/") {
		// That a directory is opaque concerns what is in it.
		if path != target && !hides {
			if hides, err = isOpaque(path); err != nil {
				return false, false, err
			}
		}
		path = filepath.Join(path, component)
		var st unix.Stat_t
		switch err := unix.Lstat(path, &st); {
		case errors.Is(err, unix.ENOENT):
			return false, hides, nil
		case err != nil:
			return false, false, &os.PathError{Op: "lstat", Path: path, Err: err}
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return false, true, nil
		}
	}
	return true, hides, nil
}

func isOpaque(directory string) (bool, error) {
	var value [1]byte
	n, err := unix.Lgetxattr(directory, "trusted.overlay.opaque", value[:])
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ERANGE), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "getxattr", Path: directory, Err: err}
	}
	return n == 1 && value[0] == 'y', nil
}
