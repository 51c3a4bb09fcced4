package idmap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Namespace returns a user namespace in which the ids of the range are 0 and so on. The
// caller closes it. ErrNotSupported: the host has no user namespaces, or no more.
func Namespace(ids container.IDRange) (_ *os.File, err error) {
	// Who traces is a thread, and with it ends who has its Pdeathsig.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Traced, the process is stopped before the first instruction of the program, which
	// never runs: only the namespace is wanted.
	p, err := os.StartProcess("/proc/self/exe", []string{"idmap"}, &os.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: Maps(ids), GidMappings: Maps(ids),
			Ptrace: true, Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", Explain(err))
	}
	namespace, err := os.Open("/proc/" + strconv.Itoa(p.Pid) + "/ns/user")
	killErr := p.Kill()
	if _, waitErr := p.Wait(); waitErr != nil {
		killErr = errors.Join(killErr, waitErr)
	}
	if err = errors.Join(err, killErr); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	return namespace, nil
}

// Maps are those of the users, or the groups, of a process in a user namespace of its own.
func Maps(ids container.IDRange) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(ids.Start), Size: int(ids.Size)}}
}

// Explain says what it means that a process could not be started in a user namespace.
func Explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return fmt.Errorf("%w: there are as many user namespaces as /proc/sys/user/max_user_namespaces allows, or they are nested too deep: %w", container.ErrNotSupported, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel has no user namespaces (CONFIG_USER_NS): %w", container.ErrNotSupported, err)
	}
	return err
}
