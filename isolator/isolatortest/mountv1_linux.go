package isolatortest

import (
	"os"
	"syscall"
	"testing"

	"berth/internal/cgroup"
)

// MountV1 mounts a hierarchy with a controller of cgroup v1 until the end of the test, if
// none has it. The test is skipped where the kernel does not.
func MountV1(t testing.TB, controller string) {
	t.Helper()
	if version, ok := detect(t).Version(controller); ok && version == cgroup.V1 {
		return
	}
	dir, err := os.MkdirTemp("", "berth-cgroup-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := syscall.Mount("cgroup", dir, "cgroup", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, controller); err != nil {
		t.Skipf("this kernel mounts no cgroup v1 hierarchy with %s: %v", controller, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}
