// Package atomicfile replaces whole files: a reader sees the old content or the
// new content, never a part.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"berth/internal/disk"
)

// Write replaces path with data. With sync it returns only after the data and the
// directory entry are on stable storage; without, a power cut may leave an empty
// file, which is enough for records that are void after one.
func Write(path string, data []byte, mode os.FileMode, sync bool) error {
	return WriteVia(filepath.Dir(path), path, data, mode, sync)
}

// WriteVia is Write with the temporary file in tmp, a directory on the same file
// system whose left-overs somebody removes.
func WriteVia(tmp, path string, data []byte, mode os.FileMode, sync bool) error {
	// The leading dot keeps temporary files out of listings of records.
	f, err := disk.CreateTemp(tmp, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	if err := replace(f, path, data, mode, sync); err != nil {
		return errors.Join(err, disk.Remove(f.Name()))
	}
	if !sync {
		return nil
	}
	return SyncDir(filepath.Dir(path))
}

// Stream replaces path with what fill writes, durably. When fill fails, path is as it was.
// What is no regular file (a pipe, a terminal) is written as it is.
func Stream(path string, mode os.FileMode, fill func(io.Writer) error) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := disk.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return writeTo(path, fill)
	}
	f, err := disk.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Chmod(mode), f.Sync())
	if err = errors.Join(err, f.Close()); err == nil {
		err = disk.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, disk.Remove(f.Name()))
	}
	return SyncDir(filepath.Dir(path))
}

func writeTo(path string, fill func(io.Writer) error) error {
	f, err := disk.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}

// replace fills f and renames it to path.
func replace(f *disk.File, path string, data []byte, mode os.FileMode, sync bool) error {
	if err := fill(f, data, mode, sync); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return disk.Rename(f.Name(), path)
}

func fill(f *disk.File, data []byte, mode os.FileMode, sync bool) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return f.Sync()
}

// SyncDir makes the entries of dir durable: what was created in, renamed into or
// removed from it.
func SyncDir(dir string) (err error) {
	d, err := disk.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
