//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/internal/calls"
	"berth/internal/mount"
	"berth/launcher/plan"
)

// become makes the process one of the command's user, with the command's capabilities. What
// it may do by them, and no more, it may do when it looks for the file of the command,
// but for CAP_SYS_ADMIN, which the filter needs.
func (c *commandCalls) become(command plan.Command) error {
	held, err := ownCapabilities()
	if err != nil {
		return step("read own capabilities", err)
	}
	want := command.Confinement.Capabilities
	if want == nil {
		want = &plan.Capabilities{Bounding: ^uint64(0)}
		if command.UID == 0 {
			want.Effective = held
		}
	}
	// While this process may still do all of it.
	c.bound(want)
	c.identify(command)
	sets := want.Effective | held&(1<<unix.CAP_SYS_ADMIN)
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := capabilityData(sets, held|want.Inheritable, want.Inheritable)
	c.Add("set the capabilities", unix.SYS_CAPSET, calls.Pin(&c.List, header), calls.Pin(&c.List, data))
	// After they are inheritable, which it presupposes.
	for n := range uintptr(64) {
		if want.Ambient&(1<<n) != 0 {
			c.Add(fmt.Sprintf("make capability %d ambient", n), unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n)
		}
	}
	return nil
}

// bound drops what no execution may give back.
func (c *commandCalls) bound(want *plan.Capabilities) {
	c.Add("clear the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	for n := range uintptr(64) {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, n, 0, 0, 0)
		if err != nil {
			break // the kernel has no more
		}
		if has == 1 && want.Bounding&(1<<n) == 0 {
			c.Add(fmt.Sprintf("drop capability %d", n), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n)
		}
	}
	if want.NoRoot {
		c.Add("take root's privileges", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secureNoRoot)
	}
}

// secureNoRoot is SECBIT_NOROOT.
const secureNoRoot = 1

// identify sets groups and user.
func (c *commandCalls) identify(command plan.Command) {
	if os.Geteuid() != 0 && int(command.UID) == os.Geteuid() && int(command.GID) == os.Getegid() {
		return // only root can change it, groups included
	}
	groups := append([]uint32{}, command.Groups...)
	var list uintptr
	if len(groups) > 0 {
		list = calls.Pin(&c.List, &groups[0])
	}
	uid, gid := uintptr(command.UID), uintptr(command.GID)
	c.Add("set the groups", unix.SYS_SETGROUPS, uintptr(len(groups)), list)
	c.Add(fmt.Sprintf("become group %d", gid), unix.SYS_SETRESGID, gid, gid, gid)
	// What this process holds it still needs; the execution takes it away.
	c.Add("keep the capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	c.Add(fmt.Sprintf("become user %d", uid), unix.SYS_SETRESUID, uid, uid, uid)
}

// filter comes after everything that the filter might forbid.
func (c *commandCalls) filter(f plan.Confinement) {
	if f.NoNewPrivileges {
		c.Add("give up new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	if len(f.Filter) == 0 {
		return
	}
	program := &unix.SockFprog{Len: uint16(len(f.Filter) / unix.SizeofSockFilter), Filter: (*unix.SockFilter)(unsafe.Pointer(&f.Filter[0]))}
	calls.Pin(&c.List, &f.Filter[0])
	c.Add("set the system call filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.FilterFlags), calls.Pin(&c.List, program))
}

func ownCapabilities() (permitted uint64, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err = unix.Capget(&header, &data[0])
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), err
}

func capabilityData(effective, permitted, inheritable uint64) *[2]unix.CapUserData {
	return &[2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
}

// writeLabels says into which labels the next execution leads. It does so for this thread,
// which the new process is made of, and to which the goroutine is bound from then on. Of
// the container's own /proc nothing is trusted: the file of a process is looked up in one
// that is mounted nowhere (CVE-2019-16884, CVE-2025-52881).
func writeLabels(f plan.Confinement) error {
	if f.AppArmorProfile == "" && f.SELinuxLabel == "" {
		return nil
	}
	runtime.LockOSThread()
	proc, err := mount.New("proc", "proc", nil, 0)
	if err != nil {
		return step("open the kernel's files of this process", err)
	}
	defer proc.Close()
	if f.AppArmorProfile != "" {
		err = writeAttribute(proc.FD(), "exec "+f.AppArmorProfile, "apparmor/exec", "exec")
		err = step(fmt.Sprintf("set AppArmor profile %q", f.AppArmorProfile), explain(err, unix.ENOENT, "the host has not loaded it: load it there with apparmor_parser"))
	}
	if err == nil && f.SELinuxLabel != "" {
		err = writeAttribute(proc.FD(), f.SELinuxLabel, "exec")
		err = step(fmt.Sprintf("set SELinux label %q", f.SELinuxLabel), explain(err, unix.EINVAL, "the host's policy has no such label"))
	}
	return err
}

// writeAttribute writes to the first of several files that there is.
func writeAttribute(proc int, value string, names ...string) error {
	var err error
	for _, name := range names {
		var fd int
		fd, err = unix.Openat2(proc, "thread-self/attr/"+name, &unix.OpenHow{
			Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			break
		}
		file := os.NewFile(uintptr(fd), name)
		_, err = file.WriteString(value)
		return errors.Join(err, file.Close())
	}
	return err
}

// explain says of the kernel's answer what it means.
func explain(err error, answer unix.Errno, meaning string) error {
	if errors.Is(err, answer) {
		return fmt.Errorf("%s: %w", meaning, err)
	}
	return err
}
