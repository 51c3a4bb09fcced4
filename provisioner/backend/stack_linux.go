package backend

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/attributes"
	"berth/internal/disk"
)

// What backends share that have the kernel stack the layers.

// Visible returns the layers from the topmost one on whose root is opaque. Union file
// systems do not look for the mark on the root of a layer.
func Visible(layers []Layer) ([]Layer, error) {
	for i, l := range slices.Backward(layers) {
		if !l.Whiteouts {
			continue
		}
		opaque, err := isOpaque(l.Path)
		if err != nil {
			return nil, err
		}
		if opaque {
			return layers[i:], nil
		}
	}
	return layers, nil
}

// TopFirst returns the layers, topmost first. Of a layer that occurs several times, as the
// empty one often does, the topmost is enough, because all that it has is seen there; and
// union file systems refuse the others.
func TopFirst(layers []Layer) []Layer {
	var unique []Layer
	seen := make(map[string]bool, len(layers))
	for _, l := range slices.Backward(layers) {
		if !seen[l.Path] {
			seen[l.Path] = true
			unique = append(unique, l)
		}
	}
	return unique
}

// A union file system shows a directory with the attributes of the topmost layer that has
// it, also when that layer has it only because names go through it. Such a directory gets,
// in the writable layer, the attributes that the layers below give it.

// AsTheyAre reports whether there is no such directory: every one has the attributes of the
// topmost layer that has it.
func AsTheyAre(layers []Layer) bool {
	return !slices.ContainsFunc(layers[1:], func(l Layer) bool { return len(l.Implied) > 0 })
}

// RestoreRoot does so for the root: the writable directory stands in front of all layers.
// It has no extended attributes that its directory has handed down.
func RestoreRoot(layers []Layer, writable string) error {
	from, err := attributesOf(layers, ".")
	if err != nil {
		return err
	}
	return copyAttributes(from, writable)
}

// RestoreImplied does so for all other directories of the mounted root filesystem.
func RestoreImplied(layers []Layer, rootfs string) error {
	var names []string
	for _, l := range layers[1:] {
		names = append(names, l.Implied...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	// What lies deeper first: its copy in the writable layer is made in its parent's.
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

// MakeImplied does what RestoreImplied does, but in the writable directory before anything
// is mounted: with the owners that are on disk.
func MakeImplied(layers []Layer, writable string) error {
	var names []string
	for _, l := range layers[1:] {
		for _, name := range l.Implied {
			from, err := attributesOf(layers, name)
			if err != nil {
				return err
			}
			if name != "." && from != "" {
				names = append(names, withParents(name)...)
			}
		}
	}
	slices.Sort(names) // what lies in another one after that
	names = slices.Compact(names)
	for _, name := range names {
		if err := disk.Mkdir(filepath.Join(writable, name), 0o700); err != nil {
			return err
		}
	}
	// Deeper ones first, whose making has changed the times of the others.
	for _, name := range slices.Backward(names) {
		from, err := attributesOf(layers, name)
		if err != nil {
			return err
		}
		if err := copyAttributes(from, filepath.Join(writable, name)); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		return RestoreRoot(layers, writable)
	}
	return nil
}

// withParents returns a path and those that it lies in.
func withParents(name string) (all []string) {
	for ; name != "."; name = filepath.Dir(name) {
		all = append(all, name)
	}
	return all
}

// copyAttributes gives the directory to the attributes of the directory from, and no
// others.
func copyAttributes(from, to string) error {
	err := attributes.Clear(attributes.Path(to))
	if err == nil {
		err = attributes.Copy(attributes.Path(from), attributes.Path(to))
	}
	if err != nil {
		return fmt.Errorf("give %s the attributes of %s: %w", to, from, err)
	}
	return nil
}

// attributesOf returns the directory of a layer whose attributes name is to have; empty
// when the topmost layer that says something says that there is no such directory.
func attributesOf(layers []Layer, name string) (from string, err error) {
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
	if name == "." {
		return true, false, nil // that the root is opaque concerns what is in it
	}
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
		switch err := disk.Fstatat(unix.AT_FDCWD, path, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case errors.Is(err, unix.ENOENT) && path != layer:
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
	opaque, err := attributes.IsOpaque(attributes.Path(directory))
	if err != nil {
		return false, fmt.Errorf("%s: %w", directory, err)
	}
	return opaque, nil
}
