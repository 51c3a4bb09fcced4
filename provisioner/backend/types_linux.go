package backend

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/mount"
)

// checkTypes checks that whiteouts, which may be made in the upper directory, and
// those of the layers will be seen: overlayfs knows them by the type that a directory
// entry has. Where entries have none, it mounts nevertheless.
func checkTypes(o mount.Overlay, layers []Layer) error {
	var dirs []string
	if o.Upper != "" {
		dirs = append(dirs, filepath.Dir(o.Upper))
	}
	for _, l := range layers {
		if l.Whiteouts {
			dirs = append(dirs, l.Path)
		}
	}
	for _, dir := range dirs {
		typed, err := entriesHaveTypes(dir)
		if err != nil {
			return err
		}
		if !typed {
			return fmt.Errorf("the file system of %s: %w: it does not store the types of directory entries (d_type, ftype), so that removed names would stay; "+
				"use --image_provisioner_backend=copy or another file system", dir, container.ErrNotSupported)
		}
	}
	return nil
}

// entriesHaveTypes looks at the first entries of a directory.
func entriesHaveTypes(dir string) (bool, error) {
	fd, err := disk.Openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	buffer := make([]byte, 4096)
	n, err := disk.ReadDirent(fd, buffer)
	if err != nil {
		return false, &os.PathError{Op: "list", Path: dir, Err: err}
	}
	// The fields of struct linux_dirent64, see getdents64(2). The entries "." and ".."
	// have a type on every file system: directory.
	const length, kind = unsafe.Offsetof(unix.Dirent{}.Reclen), unsafe.Offsetof(unix.Dirent{}.Type)
	for entries := buffer[:n]; len(entries) > 0; entries = entries[binary.NativeEndian.Uint16(entries[length:]):] {
		if entries[kind] == unix.DT_UNKNOWN {
			return false, nil
		}
	}
	return true, nil
}
