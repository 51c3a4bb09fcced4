//go:build linux

package main

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// endRest ends what the command has left, and returns when nothing is: whoever loses its
// parent becomes a child of this process, the reaper. It is for containers that no
// namespace ends.
func endRest() {
	for {
		for _, c := range children() {
			// Nobody else waits for them, so that their numbers, and those of their groups,
			// are theirs. To a group a signal comes at once, however fast it forks.
			if c.group > 1 && c.group != unix.Getpgrp() {
				_ = unix.Kill(-c.group, unix.SIGKILL)
			}
			_ = unix.Kill(c.pid, unix.SIGKILL)
		}
		if !reap() {
			return
		}
	}
}

// reap waits for a child to end, and takes all that have; false: there is none any more.
func reap() bool {
	for options := 0; ; options = unix.WNOHANG {
		switch pid, err := unix.Wait4(-1, nil, options, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false
		case pid == 0:
			return true
		}
	}
}

type relative struct{ pid, group int }

// children lists those of this process, as proc_pid_stat(5) says.
func children() (found []relative) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has just ended
		}
		// The name of the program, in parentheses, may have anything in it.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 3 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		group, _ := strconv.Atoi(fields[2])
		found = append(found, relative{pid, group})
	}
	return found
}
