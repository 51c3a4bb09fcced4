//go:build linux

package mesos

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/capability"
	"berth/isolator"
	"berth/isolator/linux/seccomp"
)

// refused are calls that the default filter refuses who has no capabilities, with arguments
// with which they do nothing. The kernel has something else against them when root makes
// them, or nothing.
var refused = []struct {
	name string
	call uintptr
	args [5]uintptr
}{
	{"bpf", unix.SYS_BPF, [5]uintptr{none}},
	{"keyctl", unix.SYS_KEYCTL, [5]uintptr{none}},
	{"add_key", unix.SYS_ADD_KEY, [5]uintptr{1, 1, 1, none}},
	{"request_key", unix.SYS_REQUEST_KEY, [5]uintptr{1, 1, 1}},
	{"kexec_load", unix.SYS_KEXEC_LOAD, [5]uintptr{0, none, 1, none}},
	{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, [5]uintptr{none, none, 0, 1, none}},
	{"init_module", unix.SYS_INIT_MODULE, [5]uintptr{1, 0, 1}},
	{"finit_module", unix.SYS_FINIT_MODULE, [5]uintptr{none, 1, none}},
	{"delete_module", unix.SYS_DELETE_MODULE, [5]uintptr{1}},
	{"mount", unix.SYS_MOUNT, [5]uintptr{1, 1, 1}},
	{"umount2", unix.SYS_UMOUNT2, [5]uintptr{1, none}},
	{"move_mount", unix.SYS_MOVE_MOUNT, [5]uintptr{none, 1, none, 1, none}},
	{"fsopen", unix.SYS_FSOPEN, [5]uintptr{1, none}},
	{"pivot_root", unix.SYS_PIVOT_ROOT, [5]uintptr{1, 1}},
	{"swapon", unix.SYS_SWAPON, [5]uintptr{1, none}},
	{"swapoff", unix.SYS_SWAPOFF, [5]uintptr{1}},
	{"unshare", unix.SYS_UNSHARE, [5]uintptr{1}},
	{"setns", unix.SYS_SETNS, [5]uintptr{none}},
	{"clone into a user namespace", unix.SYS_CLONE, [5]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [5]uintptr{none, 1}},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [5]uintptr{1}},
	{"reboot", unix.SYS_REBOOT, [5]uintptr{1, 1}},
	{"acct", unix.SYS_ACCT, [5]uintptr{1}},
	{"settimeofday", unix.SYS_SETTIMEOFDAY, [5]uintptr{1}},
	{"clock_settime", unix.SYS_CLOCK_SETTIME, [5]uintptr{none, 1}},
	{"userfaultfd", unix.SYS_USERFAULTFD, [5]uintptr{none}},
	{"socket of AF_ALG", unix.SYS_SOCKET, [5]uintptr{unix.AF_ALG, none}},
	{"socket of AF_VSOCK", unix.SYS_SOCKET, [5]uintptr{unix.AF_VSOCK, none}},
	{"personality", unix.SYS_PERSONALITY, [5]uintptr{0x0040000}}, // ADDR_NO_RANDOMIZE
}

// none is no descriptor, no flags and no number of anything; 1 is no address.
const none = 1<<31 - 1

const refusedVariable = "BERTH_TEST_REFUSED"

// printRefused makes all of these calls and prints what the kernel says.
func printRefused() {
	for _, c := range refused {
		_, _, errno := unix.RawSyscall6(c.call, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		fmt.Printf("%s: %s\n", c.name, unix.ErrnoName(errno))
	}
}

// A container that is all that root is finds these calls forbidden by the filter, and only
// by that.
func TestTheDefaultFilterFromInside(t *testing.T) {
	if err := seccomp.Supported(); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := newRigWith(t, "overlay", func(p *parts) {
		i, newErr := seccomp.New(seccomp.Options{Bounding: func(*isolator.Container) (capability.Set, error) { return 0, nil }})
		p.isolators, err = append(p.isolators, i), errors.Join(err, newErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	answers := func(info *v1.SeccompInfo) []string {
		request := onHost(refusedVariable + "=1 exec " + self)
		request.ContainerInfo.LinuxInfo = &v1.LinuxInfo{Seccomp: info}
		o := r.run(request)
		lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
		if o.code() != 0 || len(lines) != len(refused) {
			t.Fatalf("%d, %v\n%s%s", o.code(), o.err, o.stdout, o.stderr)
		}
		return lines
	}
	filtered, free := answers(nil), answers(&v1.SeccompInfo{Unconfined: proto.Bool(true)})
	for n := range refused {
		if !strings.HasSuffix(filtered[n], ": EPERM") || strings.HasSuffix(free[n], ": EPERM") {
			t.Errorf("with the filter: %s; without: %s", filtered[n], free[n])
		}
	}
}
