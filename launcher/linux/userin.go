//go:build linux

package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/launcher"
	"berth/launcher/initproc"
)

// ownedByParent returns those of the namespaces to enter that the parent's user namespace
// owns: not those that the parent has of the host.
func (l *Launcher) ownedByParent(spec launcher.Spec) (own []launcher.Namespace, err error) {
	parent, err := initproc.Recorded(l.Layout.Container(spec.Parent).Pid())
	if err != nil {
		return nil, fmt.Errorf("the init process of container %s: %w: %w", spec.Parent, container.ErrFailedPrecondition, err)
	}
	dir := "/proc/" + strconv.Itoa(parent.Pid) + "/ns/"
	user, err := os.Stat(dir + string(launcher.User))
	if err != nil {
		return nil, fmt.Errorf("the namespaces of the parent: %w: %w", container.ErrFailedPrecondition, err)
	}
	for _, ns := range spec.Enter {
		owner, err := ownerOf(dir + string(ns))
		if err != nil {
			return nil, fmt.Errorf("the namespaces of the parent: %w", err)
		}
		if os.SameFile(owner, user) {
			own = append(own, ns)
		}
	}
	return own, nil
}

// ownerOf returns the user namespace that owns another one.
func ownerOf(path string) (owner os.FileInfo, err error) {
	namespace, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, namespace.Close()) }()
	fd, err := unix.IoctlRetInt(int(namespace.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, os.NewSyscallError("ioctl", err)
	}
	user := os.NewFile(uintptr(fd), "user namespace")
	defer func() { err = errors.Join(err, user.Close()) }()
	return user.Stat()
}
