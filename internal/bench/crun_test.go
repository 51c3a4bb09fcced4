//go:build linux

package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// surroundings are those that an OCI runtime is started in.
type surroundings func(start func() error) error

// surroundingsOf returns those of the host, but for crun. Of this age it refuses a host that
// has cgroup v1 controllers beside a v2 hierarchy, so it does not see the latter.
func surroundingsOf(b *testing.B, runtime string) surroundings {
	b.Helper()
	unified := hybrid(b)
	if runtime != "crun" || len(unified) == 0 {
		return func(start func() error) error { return start() }
	}
	var namespace *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare the mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make / private: %w", err)
		}
		for _, dir := range unified {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", dir, err)
			}
		}
		namespace, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { namespace.Close() })
	return func(start func() error) error {
		return onThread(func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare the root directory: %w", err)
			}
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter the mount namespace: %w", err)
			}
			return start()
		})
	}
}

// work is that of a contender in them.
func (s surroundings) work(prepare func(*testing.B) (work, func())) func(*testing.B) (work, func()) {
	return func(b *testing.B) (work, func()) {
		do, clean := prepare(b)
		return func() (maxRSS int64, err error) {
			err = s(func() (err error) {
				maxRSS, err = do()
				return err
			})
			return maxRSS, err
		}, clean
	}
}

// hybrid returns where cgroup v2 is mounted if cgroup v1 is, too.
func hybrid(b *testing.B) (unified []string) {
	b.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		b.Fatal(err)
	}
	mounted := make(map[string][]string)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		mounted[fields[2]] = append(mounted[fields[2]], fields[1])
	}
	if len(mounted["cgroup"]) == 0 {
		return nil
	}
	return mounted["cgroup2"]
}

// onThread calls do on a thread that ends with it, and takes its namespaces along.
func onThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- do()
			return
		}
		// The first thread stays until the process ends.
		done <- onThread(do)
		runtime.UnlockOSThread()
	}()
	return <-done
}
