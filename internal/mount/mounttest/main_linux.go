package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ownNamespace marks the process that Main started.
const ownNamespace = "BERTH_TEST_MOUNT_NAMESPACE"

// Main is the TestMain of a package whose tests mount something. It runs them in a
// process with a mount namespace of its own, so that every mount and every loop
// device ends with them, even if they are killed. Mounts and open files that the
// tests have left fail the package.
func Main(m *testing.M) {
	switch {
	case os.Geteuid() != 0:
		os.Exit(m.Run()) // RequireRoot says what to do
	case os.Getenv(ownNamespace) == "":
		os.Exit(runApart())
	default:
		os.Exit(runWatched(m))
	}
}

// runApart runs this program again, in a new mount namespace.
func runApart() int {
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), ownNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "run the tests in a mount namespace:", err)
		return 1
	}
}

func runWatched(m *testing.M) int {
	// Unshareflags makes the mounts private, too; a second time does no harm.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "make the mounts private:", err)
		return 1
	}
	mounts, files := mountPoints(), openFiles()
	code := m.Run()
	for _, left := range without(mountPoints(), mounts) {
		fmt.Fprintf(os.Stderr, "the tests left a mount: %q\n", left)
		code = max(code, 1)
	}
	for _, left := range without(openFiles(), files) {
		fmt.Fprintf(os.Stderr, "the tests left a file open: %q\n", left)
		code = max(code, 1)
	}
	return code
}

func mountPoints() (points []string) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		panic(err)
	}
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points
}

// openFiles returns what this process has open, but for what the runtime of Go opens by
// itself, and package testing because a flag says so.
func openFiles() (files []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "/proc/") ||
			strings.Contains(strings.Join(os.Args, "\n"), target) {
			continue
		}
		files = append(files, target)
	}
	return files
}

// without returns the strings of all that are not in before, which may have some
// several times.
func without(all, before []string) (rest []string) {
	before = slices.Clone(before)
	for _, s := range all {
		if i := slices.Index(before, s); i >= 0 {
			before = slices.Delete(before, i, i+1)
		} else {
			rest = append(rest, s)
		}
	}
	return rest
}
