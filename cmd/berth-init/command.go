//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/launcher/plan"
)

// child is the command.
type child struct {
	pid   int
	pidFD int
}

// start executes the command. The error has the exit code 127 when there is no such
// command and 126 when it cannot be executed.
func start(p plan.Plan, s streams) (*child, error) {
	c := p.Command
	if err := step("enter the working directory "+c.Dir, enterDirectory(c.Dir)); err != nil {
		return nil, err
	}
	file, err := lookUp(c)
	if err != nil {
		return nil, err
	}
	// Without a PID namespace this process is not the reaper of what the command
	// leaves, unless it asks to be.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, step("become the reaper", err)
	}
	started := &child{}
	if started.pid, started.pidFD, err = execute(file, p, s); err != nil {
		return nil, err
	}
	return started, nil
}

// cwd is not on the stack, which would be copied to where there is room for it.
var cwd [unix.PathMax]byte

// enterDirectory changes to the working directory.
func enterDirectory(dir string) error {
	r, err := openRoot("", nil)
	if err != nil {
		return err
	}
	defer r.close()
	place, err := r.openDirectory(dir)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	if err := unix.Fchdir(place); err != nil {
		return err
	}
	// A directory that is not below this root has no name here; a command in it could
	// climb to the host (CVE-2024-21626).
	if _, err := unix.Getcwd(cwd[:]); err != nil {
		return err
	}
	if cwd[0] != '/' { // "(unreachable)/..."
		return errors.New("it is outside of the container")
	}
	return nil
}

// lookUp finds the file of the command, as execvp(3) does.
func lookUp(c plan.Command) (string, error) {
	if strings.Contains(c.Path, "/") {
		return c.Path, nil
	}
	search := environ(c.Env, "PATH")
	var denied bool
	for _, dir := range strings.Split(search, ":") {
		if dir == "" {
			dir = "."
		}
		file := path.Join(dir, c.Path)
		info, err := os.Stat(file)
		if err != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			// A relative result keeps its slash: it must not be searched again.
			return dir + "/" + c.Path, nil
		}
		denied = true
	}
	if denied {
		return "", exitError{exitNotExecutable, fmt.Errorf("execute %q: %w", c.Path, unix.EACCES)}
	}
	return "", exitError{exitNotFound, fmt.Errorf("execute %q: not found in PATH (%s)", c.Path, search)}
}

func environ(env []string, name string) (value string) {
	for _, entry := range env {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// execError says why the kernel did not execute the file, and with which exit code a
// shell would say so.
func execError(file string, c plan.Command, err error) error {
	code := exitFailure
	switch {
	case errors.Is(err, unix.ENOENT):
		code = exitNotFound
		if _, statErr := os.Stat(file); statErr == nil {
			err = fmt.Errorf("its interpreter does not exist in the container: %w", err)
		}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EISDIR),
		errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.E2BIG):
		code = exitNotExecutable
	}
	return exitError{code, fmt.Errorf("execute %q as %d:%d: %w", c.Path, c.UID, c.GID, err)}
}

// whileYoung is for how long a command has to be quiet before this process expects to wait
// for longer.
const whileYoung = 500 * time.Millisecond

// forever is a time that does not end.
const forever = -1 * time.Millisecond

// wait forwards signals to the command and reaps, until the command has ended. With settle,
// which returns when it cannot, this is given up for something better after a while. The
// rest of the container ends with this process: the kernel kills a PID namespace with its
// first process, and berth the cgroup.
func (c *child) wait(s *signals, settle func()) (unix.WaitStatus, error) {
	patience := whileYoung
	for {
		switch signal, came, err := s.next(patience); {
		case err != nil:
			return 0, step("wait for signals", err)
		case !came:
			settle()
			patience = forever
		case signal == unix.SIGCHLD:
			if status, ended, err := c.reap(); ended || err != nil {
				return status, err
			}
		default:
			c.forward(signal)
		}
	}
}

// reap reaps what has ended, and says whether the command was among it.
func (c *child) reap() (status unix.WaitStatus, ended bool, err error) {
	for {
		switch pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, false, step("wait for the command", err)
		case pid == c.pid:
			return status, true, nil
		case pid == 0:
			return 0, false, nil
		}
	}
}

// forward sends a signal on to the command. By descriptor: its pid may be another's
// by now.
func (c *child) forward(s unix.Signal) {
	switch s {
	case unix.SIGURG, unix.SIGPIPE: // this process's own; the Go runtime uses SIGURG
		return
	}
	// ESRCH: it has just ended.
	_ = unix.PidfdSendSignal(c.pidFD, s, nil, 0)
}
