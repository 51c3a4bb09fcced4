package testrig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallestFS is how many megabytes mkfs insists on.
var smallestFS = map[string]int{"ext4": 8, "xfs": 300, "btrfs": 128}

// mkfsFlags: ext4 without a journal would be no test of durability.
var mkfsFlags = map[string][]string{"ext4": {"-q", "-F", "-O", "has_journal"}, "xfs": {"-q", "-f"}, "btrfs": {"-q", "-f"}}

// LoopFS mounts a new file system ("ext4" with a journal, "xfs", "btrfs") from a
// sparse file and returns where. A size below what mkfs insists on is raised to
// that (xfs 300 MB, btrfs 128 MB). It is unmounted and its loop device freed at
// the end; a file system that is then still in use is an error of the test.
//
// The test is skipped where mkfs or the kernel does not know the file system.
func LoopFS(tb testing.TB, fstype string, sizeMB int) (dir string) {
	tb.Helper()
	RequireRoot(tb)
	base := TempDir(tb)
	image := filepath.Join(base, "image")
	MakeFS(tb, fstype, image, sizeMB)
	dir = filepath.Join(base, "mnt")
	MountFS(tb, fstype, image, dir)
	return dir
}

// MakeFS makes the file system of a LoopFS in a new file; options are further ones of mkfs.
func MakeFS(tb testing.TB, fstype, image string, sizeMB int, options ...string) {
	tb.Helper()
	flags, ok := mkfsFlags[fstype]
	if !ok {
		tb.Fatalf("MakeFS knows no %q", fstype)
	}
	mkfs := "mkfs." + fstype
	if _, err := toolPath(mkfs); err != nil {
		tb.Skipf("needs %s, which is not installed", mkfs)
	}
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(int64(max(sizeMB, smallestFS[fstype])) << 20)
		f.Close()
	}
	if err != nil {
		tb.Fatalf("make the file of the file system: %v", err)
	}
	tool{}.run(tb, mkfs, slices.Concat(flags, options, []string{image})...)
}

// MountFS mounts the file system in a file on dir, which it makes when missing. It stays
// until unmount, which is called at the end of the test if not before.
func MountFS(tb testing.TB, fstype, image, dir string, options ...string) (unmount func()) {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	if fstype == "btrfs" {
		// It remembers where it has seen a file system, and takes a copy for an old
		// part of it. That nothing was to be forgotten is no error.
		_, _ = tool{}.try("btrfs", "device", "scan", "--forget")
	}
	// mount frees the loop device by itself at the unmount, even when that comes
	// after our death.
	if _, err := (tool{}).try("mount", "-t", fstype, "-o", strings.Join(append(options, "loop"), ","), image, dir); err != nil {
		if !kernelKnows(fstype) {
			tb.Skipf("this kernel has no %s", fstype)
		}
		tb.Fatalf("mount the %s: %v", fstype, err)
	}
	unmount = sync.OnceFunc(func() {
		if err := removeLoopFS(dir, image); err != nil {
			tb.Errorf("remove the %s: %v", fstype, err)
		}
	})
	tb.Cleanup(unmount)
	return unmount
}

// quotaFlags switch on project quotas when a file system is made.
var quotaFlags = map[string][]string{"ext4": {"-O", "project,quota", "-E", "quotatype=prjquota"}, "xfs": nil}

// QuotaFS mounts a new file system ("ext4", "xfs") of 300 MB with project quotas. The test
// is skipped where the kernel has none.
func QuotaFS(tb testing.TB, fstype string) (dir string) {
	tb.Helper()
	RequireRoot(tb)
	base := TempDir(tb)
	dir, image := filepath.Join(base, "mnt"), filepath.Join(base, "image")
	MakeFS(tb, fstype, image, 300, quotaFlags[fstype]...)
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	if _, err := (tool{}).try("mount", "-o", "loop,prjquota", image, dir); err != nil {
		tb.Skipf("this kernel has no project quotas on %s: %v; see `make test-vm`", fstype, err)
	}
	tb.Cleanup(func() {
		if err := removeLoopFS(dir, image); err != nil {
			tb.Errorf("remove the %s: %v", fstype, err)
		}
	})
	return dir
}

// CloneFile copies a file, at one moment and at once, within a file system that can:
// LoopFS's xfs. What is being written to it is in the copy as a whole or not at all.
func CloneFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		return fmt.Errorf("clone %s: %w", from, err)
	}
	return nil
}

func kernelKnows(fstype string) bool {
	known, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(known), "\t"+fstype+"\n")
}

// removeLoopFS unmounts with a little patience, then by force.
func removeLoopFS(dir, image string) error {
	err := eventually(2*time.Second, func() error { return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW) })
	if err != nil {
		if err := unmountBelow(dir); err != nil {
			return err
		}
		return fmt.Errorf("unmount %s: %w: something still uses it", dir, err)
	}
	// Mount namespaces that others made meanwhile have a copy of the mount.
	return eventually(time.Minute, func() error {
		devices, err := loopDevices()
		if err != nil {
			return err
		}
		for device, file := range devices {
			if file == image {
				return fmt.Errorf("%s is still attached to %s", device, strconv.Quote(image))
			}
		}
		return nil
	})
}
