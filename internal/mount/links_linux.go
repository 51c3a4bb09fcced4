package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// mount(2) takes a page of options at most, in which colons and commas mean something.
// Directories are named there by short links, all in one directory that the mounting
// thread works in.

// linkName is the name of the link to the path of that number.
func linkName(number int) string { return strconv.FormatInt(int64(number), 36) }

// byLinks makes dir, which must not exist, with links to the paths, and calls mount in a
// thread that works there.
func byLinks(dir string, paths []string, mount func() error) error {
	if err := disk.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for i, path := range paths {
		if err := disk.Symlink(path, filepath.Join(dir, linkName(i))); err != nil {
			return err
		}
	}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread, whose working directory is its own from here
		// on, ends with the goroutine.
		runtime.LockOSThread()
		done <- within(dir, mount)
	}()
	return <-done
}

// within calls mount with dir as working directory of the thread.
func within(dir string, mount func() error) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return &os.PathError{Op: "chdir", Path: dir, Err: err}
	}
	// Should this be the main thread, it cannot end, and would keep the file system
	// of dir busy for ever.
	defer unix.Chdir("/")
	return mount()
}
