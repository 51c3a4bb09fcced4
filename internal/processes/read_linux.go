package processes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// each calls a function for every process, at once when it was read: who forks as fast as
// it can is elsewhere soon after.
func each(visit func(Process)) error {
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := find(pid)
		if isGone(err) {
			continue
		}
		if err != nil {
			return err
		}
		visit(p)
	}
	return nil
}

// tick is the unit of times in /proc: USER_HZ, which no architecture has changed for long.
const tick = time.Second / 100

// find reads /proc/PID/stat (proc_pid_stat(5)).
func find(pid int) (Process, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return Process{}, gone(ID{Pid: pid})
	}
	if err != nil {
		return Process{}, err
	}
	// The name of the program, in parentheses, may have anything in it.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const first = 3 // the number of the first field after the name
	if len(fields) <= 24-first {
		return Process{}, fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields))
	}
	number := func(field int) int64 {
		n, numberErr := strconv.ParseInt(fields[field-first], 10, 64)
		err = errors.Join(err, numberErr)
		return n
	}
	p := Process{
		ID:     ID{Pid: pid, Start: number(22)},
		Parent: int(number(4)), Group: int(number(5)), Session: int(number(6)),
		Dead:    fields[0] == "Z" || fields[0] == "X",
		Threads: int(number(20)), RSS: uint64(max(0, number(24))) * uint64(os.Getpagesize()),
		User: time.Duration(number(14)+number(16)) * tick, System: time.Duration(number(15)+number(17)) * tick,
	}
	if err != nil {
		return Process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return p, nil
}
