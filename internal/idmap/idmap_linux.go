package idmap

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/calls"
)

// Namespace returns a user namespace in which the ids of the range are 0 and so on. The
// caller closes it. ErrNotSupported: the host has no user namespaces, or no more.
func Namespace(ids container.IDRange) (namespace *os.File, err error) {
	var list calls.List
	defer list.Close()
	// Only the namespace is wanted. The process stays who this one is, so nobody traces it who
	// could not trace this one.
	list.Add("end", unix.SYS_EXIT_GROUP, 0)
	pid, pidFD, err := list.Run(calls.Birth{Flags: unix.CLONE_NEWUSER, Trusted: true, Meanwhile: func(pid int) (err error) {
		if err = Write(pid, ids); err == nil {
			namespace, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
		}
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", Explain(err))
	}
	unix.Close(pidFD)
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return namespace, nil
		}
	}
}

// Write gives the user namespace of a process, which has none yet, the maps of users and groups.
func Write(pid int, ids container.IDRange) error {
	text := fmt.Appendf(nil, "0 %d %d\n", ids.Start, ids.Size)
	for _, name := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/"+name, text, 0); err != nil {
			return fmt.Errorf("map the ids of a user namespace: %w", err)
		}
	}
	return nil
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
