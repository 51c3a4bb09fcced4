package processes

import (
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Description is what a person wants to know of a process.
type Description struct {
	Pid, Parent int
	UID         uint32
	// Command is what the process says of itself: its arguments, or its name in brackets.
	Command string
	CPU     time.Duration // of itself, without its children
	RSS     uint64        // bytes
	Started time.Time
}

// Describe describes the process that has a number now. ErrNotFound: there is none.
func Describe(pid int) (d Description, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	s, err := readStat(pid)
	if err != nil {
		return d, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return d, gone(ID{Pid: pid})
	}
	var sinceBoot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &sinceBoot); err != nil {
		return d, os.NewSyscallError("clock_gettime", err)
	}
	p := s.process()
	d = Description{
		Pid: pid, Parent: p.Parent, UID: info.Sys().(*syscall.Stat_t).Uid, Command: command(dir, s.name), RSS: p.RSS,
		CPU:     time.Duration(s.number(14)+s.number(15)) * tick,
		Started: time.Now().Add(time.Duration(p.Start)*tick - time.Duration(sinceBoot.Nano())),
	}
	return d, s.err
}

// maxCommand bounds what is read of the arguments of a process.
const maxCommand = 4096

func command(dir, name string) string {
	file, err := os.Open(dir + "/cmdline")
	if err != nil {
		return "[" + name + "]"
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxCommand))
	line := strings.TrimRight(strings.ReplaceAll(string(text), "\x00", " "), " ")
	if err != nil || line == "" {
		return "[" + name + "]"
	}
	return line
}
