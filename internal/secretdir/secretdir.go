// Package secretdir has secrets by name: files in a directory of root's. The secret NAME is
// the file NAME; that with the key KEY the file KEY in the directory NAME. Links lead nowhere out of the directory.
package secretdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
)

// maxSize bounds a secret.
const maxSize = 1 << 20

// Dir is such a directory.
type Dir string

// Resolve returns the content of the file that a reference names. No error has any of it.
// ErrInvalid: there is none, or others than its owner, root, may look at it.
func (d Dir) Resolve(_ context.Context, reference *v1.Secret_Reference) ([]byte, error) {
	name := reference.GetName()
	if reference.Key != nil {
		name = filepath.Join(name, reference.GetKey())
	}
	data, err := d.read(reference, name)
	if err != nil {
		return nil, fmt.Errorf("secret %q in %s: %w", name, string(d), err)
	}
	return data, nil
}

func (d Dir) read(reference *v1.Secret_Reference, name string) (data []byte, err error) {
	for _, part := range []string{reference.GetName(), reference.GetKey()} {
		if part != "" && (part == "." || !filepath.IsLocal(part) || filepath.Base(part) != part) || reference.GetName() == "" {
			return nil, fmt.Errorf("%w: name and key are names of files", container.ErrInvalid)
		}
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	// A FIFO in its place must not make anybody wait.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is none of that name", container.ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := check(file); err != nil {
		return nil, err
	}
	if data, err = io.ReadAll(io.LimitReader(file, maxSize+1)); err == nil && len(data) > maxSize {
		err = fmt.Errorf("%w: it has more than %d bytes", container.ErrInvalid, maxSize)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

func check(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || owner != uint32(os.Geteuid()) {
		return fmt.Errorf("%w: it has mode %v and the owner %d; it is to be a file that root alone may read: chown root, chmod 600", container.ErrInvalid, info.Mode(), owner)
	}
	return nil
}
