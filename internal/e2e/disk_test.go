//go:build linux

package e2e

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
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

// What a nested container writes, to its sandbox and to its root filesystem, is of its root
// container's disk, also after the agent was killed.
func TestTheKernelBoundsTheDiskOfNestedContainers(t *testing.T) {
	b := testrig.Berth(t)
	b.WorkDir = filepath.Join(testrig.QuotaFS(t, "xfs"), "work")
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	agent := startAgent(t, b, withQuotas)
	o := newOperator(t, b, true)
	root := launchOf(rootID("root"), image, script("sleep 1000"))
	root.LaunchContainer.Limits["disk"] = &v1.Value_Scalar{Value: proto.Float64(10)}
	o.expect(root, 200, "")
	const fill = "dd if=/dev/zero of=/root/file bs=1M count=6 2>/dev/null && echo fits; dd if=/dev/zero of=$MESOS_SANDBOX/file bs=1M count=6 2>/dev/null || echo full; rm $MESOS_SANDBOX/file"
	nested := launchOf(childID("root", "child"), image, script(fill))
	nested.LaunchContainer.Limits = nil
	o.expect(nested, 200, "")
	o.answer(waitOf(childID("root", "child")))
	hasSaid(t, b, "root.nested/child", "fits\nfull\n")
	limited := launchOf(childID("root", "limited"), image, script("true"))
	limited.LaunchContainer.Container.LinuxInfo = &v1.LinuxInfo{ShareCgroups: proto.Bool(false)}
	limited.LaunchContainer.Limits = map[string]*v1.Value_Scalar{"disk": {Value: proto.Float64(5)}, "mem": {Value: proto.Float64(math.Inf(1))}}
	o.expect(limited, 400, "shares the limit of its root container")
	agent.Signal(syscall.SIGKILL)
	agent.Wait()
	agent = startAgent(t, b, withQuotas)
	after := launchOf(childID("root", "after"), image, script(fill))
	after.LaunchContainer.Limits = nil
	o.expect(after, 200, "")
	o.answer(waitOf(childID("root", "after")))
	hasSaid(t, b, "root.nested/after", "fits\nfull\n")
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	agent = startAgent(t, b, withQuotas, "--recover=cleanup")
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
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
