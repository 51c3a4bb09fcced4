//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/testrig"
	"berth/isolator/isolatortest"
)

// TestFlagsOfCgroupsThatAreWrong: one reason, before anything is made.
func TestFlagsOfCgroupsThatAreWrong(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	for _, c := range []struct {
		flags []string
		words []string
	}{
		{[]string{"--allowed_devices={"}, []string{"--allowed_devices"}},
		{[]string{"--allowed_devices=/no/such/file"}, []string{"--allowed_devices", "/no/such/file"}},
		{[]string{`--allowed_devices={"allowed_devices": [{"device": {"path": "/etc"}, "access": {"read": true}}]}`}, []string{"/etc", "no device"}},
		{[]string{`--allowed_devices={"allowed_devices": [{"device": {"path": "/dev/null"}, "access": {}}]}`}, []string{"/dev/null", "no access"}},
		{[]string{"--device=/dev/none"}, []string{"/dev/none"}},
		{[]string{"--device=/dev/null:x"}, []string{"--device", "PATH"}},
		{[]string{"--cgroups_net_cls_primary_handle=tag"}, []string{"--cgroups_net_cls_primary_handle", "0xffff"}},
		{[]string{"--isolation=cgroups/perf_event", "--perf_events=task-clock,wonders"}, []string{"--perf_events", "wonders", "known are"}},
		{[]string{"--perf_interval=1s", "--perf_duration=2s"}, []string{"--perf_duration", "at most"}},
		{[]string{"--cgroups_root=/berth"}, []string{"--cgroups_root", "relative"}},
		{[]string{"--cgroups_root=a/../.."}, []string{"--cgroups_root", "relative"}},
		{[]string{"--isolation=cgroups/wonders"}, []string{"cgroups/wonders"}},
		{[]string{"--isolation=cgroups/cpuset", "--cpuset_cpus=0-4095"}, []string{"cpuset.cpus", "this host has"}},
		{[]string{"--isolation=cgroups/blkio", "--blkio_weight=1001"}, []string{"weight 1001", "1 to 1000"}},
		{[]string{"--isolation=cgroups/blkio", "--device_read_bps=/dev/null:1m"}, []string{"no block device"}},
		{[]string{"--isolation=cgroups/hugetlb", "--hugetlb=3MB:6m"}, []string{"hugetlb.3MB", "no pages of that size"}},
		{[]string{"--cpus=0.001"}, []string{"0.001 cpus", "from 0.01"}},
		{[]string{"--memory=1m"}, []string{"1 MiB", "from 6"}},
		{[]string{"--pids_limit=3"}, []string{"3 processes", "16"}},
	} {
		t.Run(strings.Join(c.flags, " "), func(t *testing.T) {
			r := b.Run(append(append([]string{"run"}, c.flags...), "--", "echo", "it runs")...)
			if strings.Contains(r.Stderr, "is not mounted") {
				t.Skip(r.Stderr)
			}
			if expect(t, r, 125, c.words...); r.Stdout != "" {
				t.Errorf("stdout %q", r.Stdout)
			}
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A cgroup in which others have processes is not berth's.
func TestACgroupsRootThatOthersUse(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	dir := "/sys/fs/cgroup/pids/berth-test-used"
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		dir = "/sys/fs/cgroup/berth-test-used"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.Command("sh", "-c", "echo $$ > "+dir+"/cgroup.procs; echo there; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	expect(t, b.Run("run", "--cgroups_root=berth-test-used", "--", "true"), 125, "--cgroups_root berth-test-used", "used by others", "sleep")
	r := b.Run("info", "--cgroups_root=berth-test-used")
	if expect(t, r, 0); !regexp.MustCompile(`cgroups/pids +no: .*used by others`).MatchString(r.Stdout) {
		t.Errorf("berth info:\n%s", r.Stdout)
	}
}

// Where containers cannot have cgroups, neither a container nor an agent starts, for one
// reason, and berth info has it for each isolator.
func TestAHostWithoutCgroups(t *testing.T) {
	testrig.RequireRoot(t)
	for name, c := range map[string]struct{ change, words, info string }{
		"not mounted": {"umount -R /sys/fs/cgroup || umount -l /sys/fs/cgroup", "no cgroup hierarchy is mounted: mount -t cgroup2", "is not mounted"},
		"read-only":   {"for m in $(findmnt -rno TARGET -t cgroup,cgroup2); do mount -o remount,bind,ro $m; done", "mounted read-only: /sys/fs/cgroup", "mounted read-only: /sys/fs/cgroup"},
	} {
		t.Run(name, func(t *testing.T) {
			b := testrig.Berth(t)
			// berth with such a /sys/fs/cgroup, which nobody else sees.
			inside := filepath.Join(testrig.TempDir(t), "berth")
			script := "#!/bin/sh\nexec unshare --mount sh -c '{ " + c.change + "; } >&2 || exit; exec \"$@\"' sh " + b.Path + " \"$@\"\n"
			if err := os.WriteFile(inside, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			b.Path = inside
			for _, args := range [][]string{{"run", "--", "echo", "it runs"}, {"agent"}} {
				r := b.Run(args...)
				if expect(t, r, 125, "--cgroups_root", c.words); r.Stdout != "" || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 0 {
					t.Errorf("more than one reason: %q %q", r.Stdout, r.Stderr)
				}
			}
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			r := b.Run("info")
			expect(t, r, 0)
			var isolators int
			for line := range strings.Lines(r.Stdout) {
				if !strings.HasPrefix(line, "cgroups/") {
					continue
				}
				if isolators++; !strings.Contains(line, " no: ") || !strings.Contains(line, c.info) && !strings.Contains(line, "is not mounted") {
					t.Errorf("berth info: %s", line)
				}
			}
			if isolators == 0 {
				t.Errorf("berth info has no cgroups:\n%s", r.Stdout)
			}
		})
	}
}

// cgroups/all takes what the host has, beside what is named.
func TestEveryCgroup(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	expect(t, b.Run("run", "--isolation=cgroups/all,cgroups/cpu", "--cpus=1", "--", "true"), 0)
	r := b.Run("info", "--isolation=cgroups/all")
	expect(t, r, 0)
	for _, name := range []string{"cgroups/cpu", "cgroups/devices", "cgroups/perf_event"} {
		if !strings.Contains(r.Stdout, name) {
			t.Errorf("berth info lacks %s:\n%s", name, r.Stdout)
		}
	}
}

// What the operator allows is there, also below directories of /dev, and only what is
// allowed can be done with it.
func TestDevicesThatTheOperatorAllows(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	path, script := "/dev/kmsg", "ls -l /dev/kmsg | cut -c 1-10; : < /dev/kmsg && echo read; (: > /dev/kmsg) 2>/dev/null || echo not written"
	run := func(isolation string) testrig.Result {
		return b.Run("run", "--isolation=filesystem/linux,namespaces/pid,cgroups/devices"+isolation,
			`--allowed_devices={"allowed_devices": [{"device": {"path": "`+path+`"}, "access": {"read": true}}]}`, image, "--", "sh", "-c", script)
	}
	if r := run(",linux/devices"); r.Stdout != "crw-r--r--\nread\nnot written\n" {
		t.Errorf("%d: %q\n%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	script = "ls /dev/kmsg"
	if r := run(""); r.ExitCode != 1 {
		t.Errorf("without linux/devices: %d: %q\n%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("this host has no device below a directory of /dev: /dev/net/tun")
	}
	path, script = "/dev/net/tun", "ls -l /dev/net/tun | cut -c 1-10"
	if r := run(",linux/devices"); r.Stdout != "crw-r--r--\n" {
		t.Errorf("%d: %q\n%s", r.ExitCode, r.Stdout, r.Stderr)
	}
}

// The host's filter knows whose packet it is by the tag.
func TestTheTagOfAContainersPackets(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	isolatortest.MountV1(t, "net_cls")
	if out, err := exec.Command("iptables", "-A", "OUTPUT", "-m", "cgroup", "--cgroup", "0x100001", "-j", "REJECT").CombinedOutput(); err != nil {
		t.Skipf("this kernel's filter does not look at tags: %v: %s", err, out)
	}
	b := testrig.Berth(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	for handle, want := range map[string]string{"0x10": "filtered", "0x11": "passes"} {
		r := b.Run("run", "--isolation=filesystem/linux,docker/runtime,cgroups/net_cls", "--cgroups_net_cls_primary_handle="+handle, image, "--",
			"sh", "-c", "ping -c 1 -W 10 127.0.0.1 >/dev/null 2>&1 && echo passes || echo filtered")
		if expect(t, r, 0); r.Stdout != want+"\n" {
			t.Errorf("with the tag %s0001: %q, want %q", handle, r.Stdout, want)
		}
	}
}

// A file of huge pages grows as far as the limit goes.
func TestTheLimitOfHugePages(t *testing.T) {
	testrig.RequireRoot(t)
	const pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	before, err := os.ReadFile(pages)
	if err != nil {
		t.Skipf("this host has no huge pages of 2 MiB: %v", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(pages, before, 0); err != nil {
			t.Error(err)
		}
	})
	had, err := strconv.Atoi(strings.TrimSpace(string(before)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pages, []byte(strconv.Itoa(had+4)), 0); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(pages); err != nil || strings.TrimSpace(string(after)) != strconv.Itoa(had+4) {
		t.Skipf("this host has no memory in one piece for huge pages: %s, %v", after, err)
	}
	dir := testrig.TempDir(t)
	if err := unix.Mount("none", dir, "hugetlbfs", 0, "pagesize=2M"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	b := testrig.Berth(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	for limit, want := range map[string]string{"4m": "", "none": "fits\n"} {
		flags := []string{"run", "--isolation=filesystem/linux,docker/runtime,cgroups/hugetlb", "--volume", dir + ":/huge"}
		if limit != "none" {
			flags = append(flags, "--hugetlb", "2MB:"+limit)
		}
		r := b.Run(append(flags, image, "--", "sh", "-c", "fallocate -l 4194304 /huge/two || exit; fallocate -l 2097152 /huge/third && echo fits; rm -f /huge/*")...)
		if expect(t, r, 0); r.Stdout != want || want == "" && !strings.Contains(r.Stderr, "No space left") {
			t.Errorf("limit %s: %q %q", limit, r.Stdout, r.Stderr)
		}
	}
}

// Whatever a container is limited to, the cgroups beside and above those of berth stay as
// they are, but that a v2 tree passes controllers down.
func TestCgroupsOfOthersStayAsTheyAre(t *testing.T) {
	testrig.RequireRoot(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	b := testrig.Berth(t)
	neighbour := exec.Command("sleep", "1000")
	if err := neighbour.Start(); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	t.Cleanup(func() { // before the rig looks for what is left
		_ = neighbour.Process.Kill()
		_ = neighbour.Wait()
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	before := map[string]map[string]string{}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		// Elsewhere are those of other tests. Without CPUs there is no process in a new cgroup of cpuset.
		if !strings.HasPrefix(fields[2], "cgroup") || !strings.HasPrefix(fields[1], "/sys/fs/cgroup") || strings.Contains(fields[3], "cpuset") {
			continue
		}
		dir := filepath.Join(fields[1], fmt.Sprintf("neighbour-%d", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(neighbour.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(dirs) == 0 {
		t.Fatal("there is no hierarchy below /sys/fs/cgroup")
	}
	for _, dir := range dirs {
		before[dir], before[filepath.Dir(dir)] = cgroupSettings(t, dir), cgroupSettings(t, filepath.Dir(dir))
		if len(before[dir]) == 0 {
			t.Errorf("%s has no settings", dir)
		}
	}
	expect(t, b.Run("run", "--isolation=cgroups/all", "--cpus=0.5", "--memory=64m", "--pids_limit=50", "--", "true"), 0)
	for dir, was := range before {
		is := cgroupSettings(t, dir)
		for name, value := range was { // those of controllers that are passed down now are new
			if is[name] != value {
				t.Errorf("%s/%s was %q and is %q", dir, name, value, is[name])
			}
		}
	}
}

// cgroupSettings are the files of a cgroup that can be written and do not count; of its
// processes they tell where there is one of ours.
func cgroupSettings(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	counts := regexp.MustCompile(`usage|failcnt|peak|stat|pressure|tasks|subtree_control|cgroup\.threads|fault|load`)
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o600 != 0o600 || counts.MatchString(entry.Name()) {
			continue
		}
		if entry.Name() == "cgroup.procs" && !strings.HasPrefix(filepath.Base(dir), "neighbour-") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err == nil {
			settings[entry.Name()] = string(text)
		}
	}
	return settings
}
