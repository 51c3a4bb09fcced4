// Package alone runs programs of the operator for a moment: nothing that they start is
// left when they have ended, and what they say is bounded.
package alone

import (
	"bytes"
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// held is how long a process that left the group may hold the standard streams.
const held = time.Second

// run runs a command in a process group of its own, of which nothing is left
// afterwards. It ends with this process, and when its context does. exec.ErrWaitDelay: a
// process that left the group holds a standard stream.
func run(cmd *exec.Cmd) error {
	// The parent-death signal is sent when the thread ends that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = kill, held
	if err := cmd.Start(); err != nil {
		return err
	}
	// As long as it is not waited for, the number of the group is its own.
	for {
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	kill()
	return cmd.Wait()
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	kept bytes.Buffer // not embedded: its ReadFrom would take everything
	most int
	over func() // called when there are more; nil: they are dropped
}

func (b *bounded) Write(p []byte) (int, error) {
	fits := min(len(p), b.most-b.kept.Len())
	b.kept.Write(p[:fits])
	if fits < len(p) && b.over != nil {
		b.over()
		return fits, errors.New("too much")
	}
	return len(p), nil
}
