package external

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"berth/container"
)

// trusted returns where a program lies when links are followed, and refuses one that
// anybody but root could have written or put there: it will run as root.
func trusted(program string) (string, error) {
	real, err := filepath.EvalSymlinks(program)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: there is no such executable; --isolator_dir says where they are", container.ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	// Both: a link on the way may lie in another's directory.
	for _, path := range []string{program, real} {
		if err := onlyRoots(path); err != nil {
			return "", err
		}
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%w: it is not an executable file", container.ErrInvalid)
	}
	return real, nil
}

// onlyRoots checks a path and all directories above it.
func onlyRoots(path string) error {
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t).Uid
		// Of a directory with the sticky bit others can take nothing away.
		sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
		link := info.Mode()&fs.ModeSymlink != 0
		switch {
		case owner != 0:
			return fmt.Errorf("%w: %s belongs to user %d, and what runs as root is to be root's alone: chown it", container.ErrFailedPrecondition, at, owner)
		case info.Mode()&0o022 != 0 && !sticky && !link:
			return fmt.Errorf("%w: %s can be written by others than root (mode %04o), and what it leads to runs as root: chmod go-w it", container.ErrFailedPrecondition, at, info.Mode().Perm())
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}
