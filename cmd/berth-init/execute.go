//go:build linux

package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/internal/calls"
	"berth/internal/nofile"
	"berth/launcher/plan"
)

// commandCalls are those by which the new process becomes the command.
type commandCalls struct{ calls.List }

// execute starts the command in a process of its own. The error has an exit code.
func execute(file string, p plan.Plan, s streams) (pid, pidFD int, err error) {
	command := p.Command
	c := &commandCalls{}
	defer c.Close()
	if err := writeLabels(command.Confinement); err != nil {
		return 0, 0, err
	}
	c.join(p, s)
	if err := c.limit(command.Rlimits); err != nil {
		return 0, 0, err
	}
	if err := c.become(command); err != nil {
		return 0, 0, err
	}
	c.filter(command.Confinement)
	if err := c.Execute(unix.AT_FDCWD, file, command.Args, command.Env); err != nil {
		return 0, 0, execError(file, command, err)
	}
	// Until the execution the command's process shares this one's memory. Whoever may trace
	// processes of the command's user, as in a PID namespace that others are in, must not get
	// at it.
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	if err != nil {
		return 0, 0, step("keep others from tracing", err)
	}
	pid, pidFD, err = c.Run(calls.Birth{Trusted: true})
	if dumpable == 1 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // which this process may always do
	}
	var failed *calls.Failure
	if errors.As(err, &failed) && failed.Last {
		err = execError(file, command, failed.Err)
	}
	return pid, pidFD, err
}

// join gives the process a session, its terminal and its standard streams. Every other file
// is closed when the command is executed.
func (c *commandCalls) join(p plan.Plan, s streams) {
	// What the command sends to its own process group is not for berth-init, which would
	// forward it.
	if p.Tree && s.terminal == nil {
		// In the session of berth-init, by which it is found should that be killed.
		c.Add("make a process group", unix.SYS_SETPGID, 0, 0)
	} else {
		c.Add("make a session", unix.SYS_SETSID)
	}
	for to, from := range s.files {
		if to := uintptr(to); from == to {
			c.Add("keep a standard stream", unix.SYS_FCNTL, to, unix.F_SETFD, 0)
		} else {
			c.Add("set a standard stream", unix.SYS_DUP3, from, to, 0)
		}
	}
	if s.terminal != nil {
		// The terminal is that of the new session, whose first process is the command:
		// it gets what is typed, and SIGHUP when the user is gone.
		c.Add("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
}

// limit gives the process its limits, while it may still raise them. That of open files is
// the one with which berth-init was started, and which the Go runtime raised, unless the
// plan has another.
func (c *commandCalls) limit(limits []plan.Rlimit) error {
	if limit := nofile.Inherited; limit.Hard > 0 {
		c.Add("set the limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, calls.Pin(&c.List, &limit), 0)
	}
	for _, l := range limits {
		number, known := plan.RlimitNumber(l.Name)
		if !known {
			return fmt.Errorf("set the limit %q: this berth-init does not know it", l.Name)
		}
		c.Add("set the limit "+l.Name, unix.SYS_PRLIMIT64, 0, uintptr(number), calls.Pin(&c.List, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}), 0)
	}
	return nil
}
