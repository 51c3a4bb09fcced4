//go:build linux

package mesos

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
)

// testRoot is the parent of all cgroups of one run of the tests, and testDir has all
// its files: what carries neither name is not ours.
var (
	testRoot = "berth-test-" + strings.ToLower(rand.Text()[:8])
	testDir  string
)

func TestMain(m *testing.M) {
	if text := os.Getenv(helperVariable); text != "" {
		help(text)
		return
	}
	if os.Getenv(refusedVariable) != "" {
		printRefused()
		return
	}
	os.Exit(guarded(m))
}

// guarded runs the tests and fails when they leave anything on the host.
func guarded(m *testing.M) (code int) {
	var err error
	if testDir, err = os.MkdirTemp("", "berth-mesos-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	before := descriptors()
	code = m.Run()
	if err := errors.Join(closeShared(), os.RemoveAll(testDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	var leaks []string
	// What the kernel ends after a process does not end at once.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		leaks = append(ofContainers(testDir, testRoot), newDescriptors(before)...)
		if len(leaks) == 0 || time.Now().After(end) {
			break
		}
	}
	if len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "the tests leaked:\n%s\n", strings.Join(leaks, "\n"))
		code = 1
	}
	return code
}

// ofContainers lists the mounts, cgroups and processes of this run whose names have the
// directory or the cgroup root in them.
func ofContainers(dir, root string) (found []string) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return []string{err.Error()}
	}
	for _, m := range mounts {
		found = append(found, "mount "+m.Mountpoint)
	}
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return []string{err.Error()}
	}
	for _, h := range hierarchies {
		if path := filepath.Join(h.Mountpoint, root); exists(path) {
			found = append(found, "cgroup "+path)
		}
	}
	for pid, command := range processesIn(root) {
		found = append(found, fmt.Sprintf("process %d %s", pid, command))
	}
	return found
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// processesIn returns the processes in the cgroups below root, also removed ones. One
// that is dead and waits for the host's first process to notice is not ours any more.
func processesIn(root string) map[int]string {
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		group, err := os.ReadFile(dir + "/cgroup")
		if err != nil || !strings.Contains(string(group), "/"+root) || isZombie(dir) {
			continue
		}
		var pid int
		fmt.Sscan(filepath.Base(dir), &pid)
		comm, _ := os.ReadFile(dir + "/comm")
		found[pid] = strings.TrimSpace(string(comm))
	}
	return found
}

func isZombie(dir string) bool {
	stat, err := os.ReadFile(dir + "/stat")
	_, state, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// descriptors counts what this process has open, but for what the Go runtime opens by
// itself: its poller, and the files of the CPU limit of its cgroup.
func descriptors() map[string]int {
	count := map[string]int{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.Contains(filepath.Base(target), "cpu.") {
			continue
		}
		if kind, _, ok := strings.Cut(target, ":["); ok {
			target = kind // without the number: pipe, socket, pidfd
		}
		count[target]++
	}
	return count
}

func newDescriptors(before map[string]int) (leaks []string) {
	runtime.GC() // the handles of processes are closed by their cleanups
	now := descriptors()
	for _, target := range slices.Sorted(maps.Keys(now)) {
		if n := now[target] - before[target]; n > 0 {
			leaks = append(leaks, fmt.Sprintf("%d descriptors of %s", n, target))
		}
	}
	return leaks
}

// needKernel skips a test that makes real containers where it cannot.
func needKernel(t testing.TB) {
	t.Helper()
	var missing string
	if os.Geteuid() != 0 {
		missing = "containers need root"
	} else if _, err := os.Stat(busybox); err != nil {
		missing = "busybox-static is not installed"
	}
	if missing == "" {
		return
	}
	if os.Getenv("BERTH_TEST_REQUIRE_ROOT") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}
