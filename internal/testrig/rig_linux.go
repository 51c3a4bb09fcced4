package testrig

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// toolTimeout bounds one run of a tool: no build step comes near it.
const toolTimeout = 5 * time.Minute

// RequireRoot skips the test when it is not run by root, with the reason, or
// fails it when BERTH_TEST_REQUIRE_ROOT=1 asks for the full run.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		missing(tb, "needs root (mounts, device nodes, owners of files)")
	}
}

// RequireTools skips the test when one of the programs is not installed, or
// fails it when BERTH_TEST_REQUIRE_ROOT=1 asks for the full run.
func RequireTools(tb testing.TB, names ...string) {
	tb.Helper()
	for _, name := range names {
		if _, err := toolPath(name); err != nil {
			missing(tb, fmt.Sprintf("needs %s: run \"script/packages test\"", name))
		}
	}
}

func missing(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("BERTH_TEST_REQUIRE_ROOT") == "1" {
		tb.Fatalf("%s, and BERTH_TEST_REQUIRE_ROOT=1 forbids to skip", reason)
	}
	tb.Skip(reason)
}

// TempDir returns a new directory with a short path free of symbolic links.
// Unlike testing's own it is safe to mount in: at the end, whatever is still
// mounted below is unmounted before anything is removed, so that a bind mount
// which a test forgot cannot lead the removal out of the directory.
func TempDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "berth-")
	if err != nil {
		tb.Fatalf("make a temporary directory: %v", err)
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		tb.Fatalf("resolve the temporary directory: %v", err)
	}
	tb.Cleanup(func() {
		if err := removeTree(dir); err != nil {
			tb.Errorf("remove the temporary directory: %v", err)
		}
	})
	return dir
}

// TempMemory makes a temporary directory in memory, which goes with the test. It takes as much
// memory as what is in it. What is synced there costs nothing, and is not to outlive anything.
func TempMemory(tb testing.TB) string {
	tb.Helper()
	dir := TempDir(tb)
	if err := unix.Mount("berth-rig", dir, "tmpfs", 0, ""); err != nil {
		tb.Fatalf("mount a tmpfs on %s: %v", dir, err)
	}
	return dir
}

// removeTree unmounts what is mounted at or below dir, then removes dir.
func removeTree(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// unmountBelow detaches every mount at or below dir. A nil error proves that
// none is left.
func unmountBelow(dir string) error {
	var last error
	// Rounds, because a mount over a mount shows only when the upper is gone.
	for range 10 {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return fmt.Errorf("list mounts below %s: %w", dir, err)
		}
		if len(mounts) == 0 {
			return nil
		}
		for _, m := range slices.Backward(mounts) {
			if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				last = fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
			}
		}
	}
	return cmp.Or(last, fmt.Errorf("mounts below %s come back", dir))
}

// toolPath finds a program, also in the sbin folders that the PATH of a root
// shell may lack.
func toolPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// tool is one way to run programs: with which environment, in which directory.
type tool struct {
	env []string // added to the process's own
	dir string
}

// run runs a program to its end and returns its standard output. A failure
// fails the test with everything that the program said.
func (t tool) run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := t.try(name, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func (t tool) try(name string, args ...string) (string, error) {
	path, err := toolPath(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), t.env...)
	cmd.Dir = t.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A group of its own, so that a timeout also ends what the tool started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	done, err := startTied(cmd)
	if err == nil {
		err = <-done
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "),
			errors.Join(err, ctx.Err()), tail(&stdout), tail(&stderr))
	}
	return stdout.String(), nil
}

// startTied starts a command that dies with this process, even when this
// process is killed; the channel brings what Wait returned.
//
// The kernel sends the parent-death signal when the *thread* that forked ends,
// so the command is started from a thread that is kept for it.
func startTied(cmd *exec.Cmd) (<-chan error, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	return done, <-started
}

// tail keeps an error readable when a tool has said a lot.
func tail(b *bytes.Buffer) []byte {
	const most = 4000
	text := b.Bytes()
	return text[max(0, len(text)-most):]
}

// eventually tries until it succeeds, and returns the last error when it never
// did within the given time.
func eventually(limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
