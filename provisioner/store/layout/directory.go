package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"berth/container"
	"berth/internal/disk"
	"berth/provisioner/store/fetch"
)

// Open opens the layout in a directory. ErrNotFound: there is none; ErrInvalid: it is no
// directory.
func Open(dir string) (*Layout, error) {
	f, err := disk.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %w", container.ErrNotFound, err)
	case errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%w: a layout is a directory, one in a file is an oci-archive: %w", container.ErrInvalid, err)
	case err != nil:
		return nil, err
	}
	return &Layout{directory{f}}, nil
}

// directory is the files below an open directory.
type directory struct{ *disk.File }

func (d directory) open(name string) (*content, error) {
	f, err := openBelow(d.File, name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%s: %w in %s", name, container.ErrNotFound, d.Name())
	case errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("%s: %w: a symbolic link leads to it, and may lead out of the layout", name, container.ErrInvalid)
	case errors.Is(err, syscall.ENXIO): // a socket
		return nil, errNotRegular(name)
	case err != nil:
		return nil, err
	}
	// Of the open file and before it is read: should another take its place, or it change
	// meanwhile, then it is not the recorded one.
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular(name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &content{f, info.Size(), fetch.Identify(filepath.Join(d.Name(), name), info)}, nil
}

func errNotRegular(name string) error {
	return fmt.Errorf("%s: %w: it is not a regular file", name, container.ErrInvalid)
}
