package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// RequireRoot skips a test that is not run by root. With BERTH_TEST_REQUIRE_ROOT=1,
// which asks for the full run, it fails it.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		missing(tb, "only root can mount")
	}
}

func missing(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("BERTH_TEST_REQUIRE_ROOT") == "1" {
		tb.Fatalf("%s, and BERTH_TEST_REQUIRE_ROOT=1 forbids to skip", reason)
	}
	tb.Skip(reason)
}

// FileSystem mounts a new file system of the type, such as "ext4", "xfs" or "btrfs",
// until the end of the test, and returns where. options are those of mkfs.
func FileSystem(tb testing.TB, fstype string, options ...string) string {
	tb.Helper()
	RequireRoot(tb)
	// Also where the PATH of root has no sbin.
	mkfs, err := exec.LookPath("mkfs." + fstype)
	if err != nil {
		mkfs = "/usr/sbin/mkfs." + fstype
	}
	if _, err := os.Stat(mkfs); err != nil {
		missing(tb, "mkfs."+fstype+" is not installed")
	}
	image := filepath.Join(tb.TempDir(), "image")
	if err := sparseFile(image, 3<<30); err != nil {
		tb.Fatal(err)
	}
	if out, err := exec.Command(mkfs, append(options, "-q", image)...).CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v: %s", mkfs, err, out)
	}
	dir := Dir(tb)
	// mount(8) makes a loop device that goes with the mount.
	if out, err := exec.Command("mount", "-t", fstype, "-o", "loop", image, dir).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "unknown filesystem type") {
			tb.Skipf("this kernel has no %s", fstype)
		}
		tb.Fatalf("mount %s: %v: %s", fstype, err, out)
	}
	return dir
}

func sparseFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// Dir returns a new directory without symbolic links in its path. What is mounted on
// it or below it is unmounted at the end of the test; what then is still in use fails
// the test.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unmountAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// unmountAll unmounts dir and all below it: with some patience, then by force, which
// is an error.
func unmountAll(dir string) error {
	var forced []string
	for round := range 100 {
		points, err := Points(dir)
		switch {
		case err != nil:
			return err
		case len(points) == 0 && forced != nil:
			return fmt.Errorf("these mounts were still in use: %q", forced)
		case len(points) == 0:
			return nil
		}
		for _, point := range slices.Backward(points) {
			err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EBUSY) && round > 50 {
				forced = append(forced, point)
				unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			}
		}
		if round > 5 { // the first rounds uncover what lies below other mounts
			time.Sleep(20 * time.Millisecond)
		}
	}
	return fmt.Errorf("%s cannot be unmounted", dir)
}

// Points returns the mount points at dir and below it, one for each mount.
func Points(dir string) (points []string, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points, err
}

// Mount mounts a file system that needs no device, such as "tmpfs", at dir.
func Mount(tb testing.TB, fstype, dir, options string) {
	tb.Helper()
	if err := unix.Mount(fstype, dir, fstype, 0, options); err != nil {
		tb.Fatal(&os.PathError{Op: "mount " + fstype, Path: dir, Err: err})
	}
}

// DetachBelow detaches every mount at dir and below it, also one that hides others.
func DetachBelow(dir string) error {
	for {
		points, err := Points(dir)
		if err != nil || len(points) == 0 {
			return err
		}
		detached := false
		for _, point := range slices.Backward(points) {
			if err = unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err == nil {
				detached = true
			}
		}
		if !detached {
			return fmt.Errorf("detach what is mounted below %s: %w", dir, err)
		}
	}
}
