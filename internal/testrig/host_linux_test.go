package testrig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// TestNoLeaksSeesEachKindOfLeak makes each thing that berth could leave, and
// removes it only after NoLeaks has looked.
func TestNoLeaksSeesEachKindOfLeak(t *testing.T) {
	RequireRoot(t)
	cases := []struct {
		name string
		leak func(t *testing.T, dir string)
		want string // in the one line that is reported, with DIR for the directory
	}{
		{"nothing", func(*testing.T, string) {}, ""},
		{"mount", func(t *testing.T, dir string) { leakMount(t, dir, "tmpfs", "size=1m") }, "+ mount / of tmpfs berth-rig on DIR/mnt"},
		{"process", leakProcess, `"sleep" sleep 1000`},
		{"zombie", leakZombie, `+ process `},
		{"cgroup", leakCgroup, "+ cgroup "},
		{"network namespace", leakNetwork, "+ network namespace /run/netns/berth-rig-"},
		{"loop device", leakLoop, "of DIR/image"},
		{"file", func(t *testing.T, dir string) { writer{t, dir}.file("watched/new", 0o4644, "12345") }, "+ file DIR/watched/new urw-r--r-- 5"},
		{"removed file", func(t *testing.T, dir string) { writer{t, dir}.remove("watched/old") }, "- file DIR/watched/old"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := TempDir(t)
			base := filepath.Base(dir)
			w := writer{t, dir}
			w.dir("watched", 0o755)
			w.file("watched/old", 0o644, "")
			// The directory's name marks all that the leaks make.
			scope := Scope{Processes: []string{base}, Cgroups: []string{base}, Files: []string{dir + "/watched"}, Only: []string{base}}
			before := HostState(t, scope)
			c.leak(t, dir)
			lines := before.Diff(HostState(t, scope))
			report := strings.ReplaceAll(strings.Join(lines, "\n"), dir, "DIR")
			if c.want == "" {
				if report != "" {
					t.Errorf("found %s", report)
				}
				return
			}
			if !strings.Contains(report, c.want) {
				t.Errorf("found %q, want %q", report, c.want)
			}
			if len(lines) != 1 {
				t.Errorf("found more than one change: %q", lines)
			}
		})
	}
}

func leakMount(t *testing.T, dir, fstype, options string) {
	target := filepath.Join(dir, "mnt")
	writer{t, dir}.dir("mnt", 0o755)
	if err := unix.Mount("berth-rig", target, fstype, 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Error(err)
		}
	})
}

// leakProcess leaves a process that only its name in /proc tells from others.
func leakProcess(t *testing.T, dir string) {
	sleep, err := toolPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "sleep")
	tool{}.run(t, "cp", sleep, program)
	cmd := exec.Command(program)
	cmd.Args = []string{"sleep", "1000"} // its executable alone has the mark
	done, err := startTied(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endProcess(t, cmd, done) })
}

// leakZombie leaves a process that has ended and that nobody has waited for.
func leakZombie(t *testing.T, dir string) {
	// It has no executable and no command line any more; its cgroup marks it.
	cgroup := makeCgroup(t, filepath.Base(dir))
	cmd := exec.Command("sh", "-c", `echo $$ >"$0"`, filepath.Join(cgroup, "cgroup.procs"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	if err := waitForZombie(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Rmdir(cgroup); err != nil {
		t.Fatal(err)
	}
}

func leakCgroup(t *testing.T, dir string) { makeCgroup(t, filepath.Base(dir)) }

func makeCgroup(t *testing.T, name string) string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil || len(mounts) == 0 {
		t.Fatalf("find the cgroup v2 hierarchy: %v", err)
	}
	path := filepath.Join(mounts[0].Mountpoint, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	return path
}

func leakNetwork(t *testing.T, dir string) {
	_, err := os.Stat("/run/netns")
	if os.IsNotExist(err) {
		if err := os.Mkdir("/run/netns", 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove("/run/netns") }) // unless others use it by now
	}
	path := "/run/netns/berth-rig-" + filepath.Base(dir)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
}

func leakLoop(t *testing.T, dir string) {
	image := filepath.Join(dir, "image")
	writer{t, dir}.file("image", 0o644, strings.Repeat("\x00", 1<<20))
	device := strings.TrimSpace(tool{}.run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { tool{}.run(t, "losetup", "--detach", device) })
}

func TestNoLeaksFailsTheTest(t *testing.T) {
	impatient(t)
	RequireRoot(t)
	dir := TempDir(t)
	r := record(t, func(tb testing.TB) {
		NoLeaks(tb, Scope{Files: []string{dir}, Only: []string{dir}})
		writer{tb, dir}.file("left", 0o644, "")
	})
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "/left") {
		t.Errorf("errors: %q", r.errors)
	}
	r = record(t, func(tb testing.TB) {
		NoLeaks(tb, Scope{Files: []string{dir}, Only: []string{dir}})
		tb.Cleanup(func() { writer{tb, dir}.remove("more") })
		writer{tb, dir}.file("more", 0o644, "")
	})
	if len(r.errors) != 0 {
		t.Errorf("what the test cleaned up was reported: %q", r.errors)
	}
}

func TestStateCountsWhatIsTwice(t *testing.T) {
	RequireRoot(t)
	dir := TempDir(t)
	scope := Scope{Only: []string{dir}}
	leakMount(t, dir, "tmpfs", "size=1m")
	before := HostState(t, scope)
	leakMount(t, dir, "tmpfs", "size=1m")
	after := HostState(t, scope)
	if diff := before.Diff(after); len(diff) != 1 || !strings.HasPrefix(diff[0], "+ mount") {
		t.Errorf("the second mount: %q", diff)
	}
	if diff := after.Diff(before); len(diff) != 1 || !strings.HasPrefix(diff[0], "- mount") {
		t.Errorf("backwards: %q", diff)
	}
	if diff := after.Diff(after); len(diff) != 0 {
		t.Errorf("against itself: %q", diff)
	}
}

func TestTheZeroScopeSeesTheWholeMountTable(t *testing.T) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		t.Fatal(err)
	}
	state := HostState(t, Scope{})
	seen := 0
	for line, n := range state.lines {
		if strings.HasPrefix(line, "mount ") {
			seen += n
		}
	}
	// Others may mount at the same moment, but not all mounts of the host.
	if seen == 0 || seen < len(mounts)/2 {
		t.Errorf("%d of %d mounts", seen, len(mounts))
	}
}

func waitForZombie(pid int) error {
	return eventually(5*time.Second, func() error {
		if !strings.Contains(readProc(pid, "stat"), ") Z ") {
			return fmt.Errorf("process %d has not ended", pid)
		}
		return nil
	})
}
