//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/testrig"
)

// withQuotas are the isolators of a container whose disk the kernel bounds.
const withQuotas = "--isolation=filesystem/linux,namespaces/pid,cgroups/mem,docker/runtime,disk/xfs"

func TestTheKernelBoundsTheDiskOfAContainer(t *testing.T) {
	b := testrig.Berth(t)
	b.WorkDir = filepath.Join(testrig.QuotaFS(t, "xfs"), "work")
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	// In the root file system and in the sandbox, which are one disk.
	r := b.Run("run", "--name", "c", withQuotas, "--disk", "10m", image, "--",
		"sh", "-c", "dd if=/dev/zero of=/file bs=1M count=7 2>/dev/null && echo fits; dd if=/dev/zero of=$MESOS_SANDBOX/file bs=1M count=7; echo status $?")
	expect(t, r, 0)
	if r.Stdout != "fits\nstatus 1\n" || !strings.Contains(r.Stderr, "Disk quota exceeded") && !strings.Contains(r.Stderr, "No space left") {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	r = b.Run("run", withQuotas, "--xfs_kill_containers", "--container_disk_watch_interval", "50ms", "--disk", "10m", image, "--",
		"sh", "-c", "dd if=/dev/zero of=/file bs=1M count=15; sleep 1000")
	if expect(t, r, 137); !strings.Contains(r.Stderr, "exceeds the limit of 10.0 MiB") {
		t.Errorf("stderr %q", r.Stderr)
	}
}

// The files that berth makes for a container and that it can write to are its disk, too.
func fillHosts(b *testrig.Command, image string, flags ...string) testrig.Result {
	args := append([]string{"run", "--network", "none", "--disk", "10m", "--container_disk_watch_interval", "50ms"}, flags...)
	return b.Run(append(args, image, "--", "sh", "-c", "dd if=/dev/zero of=/etc/hosts bs=1M count=15; echo status $?; sleep 1000")...)
}

func TestTheFilesOfTheNetworkCount(t *testing.T) {
	b := testrig.Berth(t)
	r := fillHosts(b, testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1"))
	if expect(t, r, 137); !strings.Contains(r.Stderr, "exceeds the limit of 10.0 MiB") {
		t.Errorf("stderr %q", r.Stderr)
	}
}

func TestTheQuotaCountsTheFilesOfTheNetwork(t *testing.T) {
	b := testrig.Berth(t)
	b.WorkDir = filepath.Join(testrig.QuotaFS(t, "xfs"), "work")
	r := fillHosts(b, testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1"), withQuotas+",network/cni", "--xfs_kill_containers", "--xfs_quota_headroom", "1MB")
	if expect(t, r, 137); !strings.Contains(r.Stderr, "exceeds the limit of 10.0 MiB") {
		t.Errorf("stderr %q", r.Stderr)
	}
}

func TestQuotasThatCannotBe(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	plain := testrig.LoopFS(t, "ext4", 64)
	for name, c := range map[string]struct {
		flags []string
		want  string
	}{
		"a file system without":  {[]string{withQuotas, "--work_dir", filepath.Join(plain, "work")}, "its project quotas are switched off"},
		"both isolators":         {[]string{withQuotas + ",disk/du"}, "leave one out"},
		"a range that is none":   {[]string{withQuotas, "--xfs_project_range", "[10-5]"}, "FIRST-LAST"},
		"the project of nobody":  {[]string{withQuotas, "--xfs_project_range", "0-5"}, "from 1 to"},
		"a headroom that is not": {[]string{withQuotas, "--xfs_quota_headroom", "some"}, "number of bytes"},
	} {
		r := b.Run(append(append([]string{"run"}, c.flags...), "--", "true")...)
		if expect(t, r, 125); !strings.Contains(r.Stderr, c.want) {
			t.Errorf("%s: stderr %q, want %q", name, r.Stderr, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(plain, "work", "projects")); err == nil {
		t.Error("a ledger was made")
	}
}
