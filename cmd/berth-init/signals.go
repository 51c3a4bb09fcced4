//go:build linux

package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// signals are those that were sent to this process, in a pipe: one byte each, its number.
// What is in there outlives an execve.
type signals struct{ pipe int }

// catchSignals keeps signals from ending this process: from here on they go to the pipe,
// SIGURG aside, which is the Go runtime's. One that berth's own parent ignored is not
// ignored by the command then.
func catchSignals() (*signals, error) {
	var ends [2]int
	// Who handles a signal must not wait for who reads.
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	return &signals{pipe: ends[0]}, sendSignals(ends[1])
}

// next returns the next signal; false: there was none for so long. A negative time is for
// ever.
func (s *signals) next(wait time.Duration) (unix.Signal, bool, error) {
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(s.pipe), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || ready == 0 {
			return 0, false, os.NewSyscallError("poll", err)
		}
		var number [1]byte
		if _, err := unix.Read(s.pipe, number[:]); err != nil {
			return 0, false, os.NewSyscallError("read", err)
		}
		return unix.Signal(number[0]), true, nil
	}
}
