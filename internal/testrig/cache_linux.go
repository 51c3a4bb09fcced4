package testrig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cacheDir is where things are kept that take long to make.
func cacheDir() (string, error) {
	if dir := os.Getenv("BERTH_TEST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil { // no HOME
		dir = os.TempDir()
	}
	return filepath.Join(dir, "berth-test"), nil
}

// cached returns the directory <cache>/<name>-<version>; build fills it, once a
// machine: test processes that ask at the same time wait for the first. Older
// versions of the same name are removed.
func cached(tb testing.TB, name, version string, build func(dir string)) string {
	tb.Helper()
	cache, unlock, err := lockCache(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer unlock()
	dir := filepath.Join(cache, name+"-"+version)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		tb.Fatalf("read the cache: %v", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), name+"-") {
			if err := os.RemoveAll(filepath.Join(cache, e.Name())); err != nil {
				tb.Fatalf("remove an old version: %v", err)
			}
		}
	}
	// Under its last name it is whole: what an interrupted build leaves bears
	// another name, and the loop above removes it.
	staging := dir + ".partial"
	if err := os.Mkdir(staging, 0o755); err != nil {
		tb.Fatalf("make the cache: %v", err)
	}
	build(staging)
	if err := os.Rename(staging, dir); err != nil {
		tb.Fatalf("keep %s: %v", name, err)
	}
	return dir
}

// lockCache takes the lock of one name in the cache, between goroutines and
// between processes; the kernel frees it when the holder dies.
func lockCache(name string) (cache string, unlock func(), err error) {
	cache, err = cacheDir()
	if err == nil {
		err = os.MkdirAll(cache, 0o755)
	}
	if err != nil {
		return "", nil, fmt.Errorf("make the cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(cache, "."+name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", nil, fmt.Errorf("lock the cache: %w", err)
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return "", nil, fmt.Errorf("lock the cache: %w", err)
	}
	return cache, func() { f.Close() }, nil
}

func lockFile(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("flock %s: %w", f.Name(), err)
		}
	}
}
