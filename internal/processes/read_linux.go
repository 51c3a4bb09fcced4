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

// find returns the process that has a number now.
func find(pid int) (Process, error) {
	s, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	p := s.process()
	return p, s.err
}

// stat is /proc/PID/stat (proc_pid_stat(5)).
type stat struct {
	pid    int
	name   string   // of the program
	fields []string // from firstField on
	err    error    // of the numbers that were none
}

// firstField is the number of the first field after the name.
const firstField = 3

func readStat(pid int) (*stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, gone(ID{Pid: pid})
	}
	if err != nil {
		return nil, err
	}
	// The name of the program, in parentheses, may have anything in it.
	text := string(data)
	begin, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[end+1:])
	if begin < 0 || end < begin || len(fields) <= 24-firstField {
		return nil, fmt.Errorf("/proc/%d/stat has no name, or only %d fields after it", pid, len(fields))
	}
	return &stat{pid: pid, name: text[begin+1 : end], fields: fields}, nil
}

func (s *stat) number(field int) int64 {
	n, err := strconv.ParseInt(s.fields[field-firstField], 10, 64)
	if err != nil {
		s.err = fmt.Errorf("/proc/%d/stat: %w", s.pid, err)
	}
	return n
}

func (s *stat) process() Process {
	return Process{
		ID:     ID{Pid: s.pid, Start: s.number(22)},
		Parent: int(s.number(4)), Group: int(s.number(5)), Session: int(s.number(6)),
		Dead:    s.fields[0] == "Z" || s.fields[0] == "X",
		Threads: int(s.number(20)), RSS: uint64(max(0, s.number(24))) * uint64(os.Getpagesize()),
		User: time.Duration(s.number(14)+s.number(16)) * tick, System: time.Duration(s.number(15)+s.number(17)) * tick,
	}
}
