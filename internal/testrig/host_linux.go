package testrig

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Scope says what belongs to a State. The zero Scope takes every mount, network
// namespace and loop device of the host, and nothing else.
type Scope struct {
	// Processes takes the processes whose executable, name, command line or
	// cgroup contains one of these strings.
	Processes []string
	// Environments takes the processes that were started with one of these
	// strings in their environment: "NAME=value".
	Environments []string
	// Cgroups takes the cgroup directories, of every hierarchy, whose path
	// within the hierarchy contains one of these strings.
	Cgroups []string
	// Files takes everything below these directories. One that does not exist
	// is empty.
	Files []string
	// Only, where it is not empty, leaves out the mounts, network namespaces and
	// loop devices that mention none of these strings: others may come and go
	// while tests run side by side.
	Only []string
}

// State is what there was on the host at one moment: each thing as a line, with
// how many there were of it.
type State struct {
	scope Scope
	lines map[string]int
}

// HostState looks at the host as it is now.
func HostState(tb testing.TB, scope Scope) State {
	tb.Helper()
	s, err := readState(scope)
	if err != nil {
		tb.Fatalf("look at the host: %v", err)
	}
	return s
}

// Diff returns what later has and s has not ("+ mount ...") and what s has and
// later has not ("- mount ..."), in order.
func (s State) Diff(later State) []string {
	var diff []string
	lines := maps.Clone(later.lines)
	for line := range s.lines {
		lines[line] += 0 // so that the loop sees it
	}
	for line, n := range lines {
		for range n - s.lines[line] {
			diff = append(diff, "+ "+line)
		}
		for range s.lines[line] - n {
			diff = append(diff, "- "+line)
		}
	}
	slices.SortFunc(diff, func(a, b string) int { return strings.Compare(a[2:]+a[:1], b[2:]+b[:1]) })
	return diff
}

// leakGrace is how long NoLeaks waits for the kernel: a mount namespace and the
// memory cgroup of a process go a moment after the process was reaped.
var leakGrace = 3 * time.Second

// NoLeaks remembers the host as it is now and fails the test if it is not the
// same at the end. Only what is registered for cleanup after this call is
// cleaned up before the comparison, so call it first.
func NoLeaks(tb testing.TB, scope Scope) {
	tb.Helper()
	before := HostState(tb, scope)
	tb.Cleanup(func() {
		for _, line := range before.changes(leakGrace) {
			tb.Errorf("the host is not as before the test: %s", line)
		}
	})
}

// changes returns how the host differs from s, after having given it time to
// return to that. It takes two looks to be sure that it has: in the middle of
// an exec a process has neither a command line nor an environment.
func (s State) changes(grace time.Duration) []string {
	var diff []string
	quiet := 0
	_ = eventually(grace, func() error {
		now, err := readState(s.scope)
		if err != nil {
			diff = []string{err.Error()}
			return err
		}
		quiet++
		if diff = s.Diff(now); len(diff) > 0 {
			quiet = 0
		}
		if quiet < 2 {
			return errors.New("changed, or not yet certain")
		}
		return nil
	})
	return diff
}

func readState(scope Scope) (State, error) {
	s := State{scope: scope, lines: map[string]int{}}
	for _, read := range []func() error{s.mounts, s.networks, s.loops, s.cgroups, s.processes, s.files} {
		if err := read(); err != nil {
			return State{}, err
		}
	}
	return s, nil
}

func (s State) add(format string, args ...any) {
	s.lines[fmt.Sprintf(format, args...)]++
}

func mentions(text string, words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
}

// addShared adds a line of what others make too, if it is in the scope.
func (s State) addShared(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if len(s.scope.Only) == 0 || mentions(line, s.scope.Only) {
		s.lines[line]++
	}
}

// mounts leaves out the ids (of mount, parent, peer group and unnamed device):
// a mount that was made again is the same mount.
func (s State) mounts() error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range mounts {
		var propagation []string
		for _, tag := range strings.Fields(m.Optional) {
			kind, _, _ := strings.Cut(tag, ":")
			propagation = append(propagation, kind)
		}
		s.addShared("mount %s of %s %s on %s (%s) %v %s",
			m.Root, m.FSType, m.Source, m.Mountpoint, m.Options, propagation, m.VFSOptions)
	}
	return nil
}

// networks lists the named network namespaces.
func (s State) networks() error {
	for _, dir := range []string{"/run/netns", "/run/docker/netns"} {
		entries, err := readDirIfThere(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			s.addShared("network namespace %s/%s", dir, e.Name())
		}
	}
	return nil
}

func (s State) loops() error {
	backing, err := loopDevices()
	for device, file := range backing {
		s.addShared("loop device %s of %s", device, file)
	}
	return err
}

// loopDevices maps each loop device in use to its file. /proc/partitions has these, and
// not those without a file, of which a host may have a thousand.
func loopDevices() (map[string]string, error) {
	partitions, err := os.ReadFile("/proc/partitions")
	if err != nil {
		return nil, err
	}
	backing := map[string]string{}
	for line := range strings.Lines(string(partitions)) {
		fields := strings.Fields(line)
		if len(fields) != 4 || !strings.HasPrefix(fields[3], "loop") {
			continue
		}
		device := fields[3]
		file, err := os.ReadFile("/sys/block/" + device + "/loop/backing_file")
		if gone(err) { // also of a partition on such a device
			continue
		}
		if err != nil {
			return nil, err
		}
		backing[device] = strings.TrimSpace(string(file))
	}
	return backing, nil
}

func (s State) cgroups() error {
	if len(s.scope.Cgroups) == 0 {
		return nil
	}
	dirs, err := cgroupDirs(s.scope.Cgroups)
	for _, dir := range dirs {
		s.add("cgroup %s", dir)
	}
	return err
}

// cgroupDirs returns the cgroups of every mounted hierarchy whose path in it
// contains one of the words, parents before children.
func cgroupDirs(words []string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var dirs []string
	for _, m := range mounts {
		err := walkDirs(m.Mountpoint, func(dir string) {
			if mentions(strings.TrimPrefix(dir, m.Mountpoint), words) {
				dirs = append(dirs, dir)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// walkDirs visits the directories of a cgroup hierarchy, where any of them can
// go while we look.
func walkDirs(dir string, visit func(string)) error {
	visit(dir)
	entries, err := readDirIfThere(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := walkDirs(filepath.Join(dir, e.Name()), visit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s State) processes() error {
	processes, err := findProcesses(s.scope)
	for _, p := range processes {
		s.add("process %d %q %s", p.pid, p.name, p.command)
	}
	return err
}

type process struct {
	pid           int
	name, command string
}

// findProcesses returns the processes in the scope, without this one.
func findProcesses(scope Scope) ([]process, error) {
	if len(scope.Processes)+len(scope.Environments) == 0 {
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		p := process{
			pid:     pid,
			name:    strings.TrimSpace(readProc(pid, "comm")),
			command: strings.TrimSpace(strings.ReplaceAll(readProc(pid, "cmdline"), "\x00", " ")),
		}
		if awaitsInit(readProc(pid, "stat")) {
			continue
		}
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // a zombie has none
		about := []string{exe, p.name, p.command, readProc(pid, "cgroup")}
		if mentions(strings.Join(about, "\n"), scope.Processes) ||
			len(scope.Environments) > 0 && mentions(readProc(pid, "environ"), scope.Environments) {
			found = append(found, p)
		}
	}
	return found, nil
}

// awaitsInit reports whether a process has ended and waits for the host's init to
// take note of it: there is nothing that those who started it could still do.
func awaitsInit(stat string) bool {
	// "PID (NAME) STATE PPID ...", and a name may hold anything.
	_, rest, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	return strings.HasPrefix(rest, "Z 1 ")
}

// readProc returns nothing for a process that has just ended.
func readProc(pid int, file string) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	return string(text)
}

func (s State) files() error {
	for _, root := range s.scope.Files {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if gone(err) {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := d.Info()
			if gone(err) {
				return nil
			}
			if err != nil {
				return err
			}
			size := info.Size()
			if d.IsDir() {
				size = 0 // the file system's own business
			}
			s.add("file %s %s %d", path, info.Mode(), size)
			return nil
		})
		if err != nil {
			return fmt.Errorf("list files: %w", err)
		}
	}
	return nil
}

func readDirIfThere(dir string) ([]os.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if gone(err) {
		return nil, nil
	}
	return entries, err
}

// gone says that a file has ceased to exist while we looked. The kernel's own
// file systems say it as ENODEV (cgroup), ESRCH (proc) or ENXIO (sysfs).
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENXIO)
}
