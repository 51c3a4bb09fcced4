//go:build !linux

package processes

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// each calls a function for every process.
func each(visit func(Process)) error { return ps(visit, "-A") }

func find(pid int) (found Process, err error) {
	err = ps(func(p Process) { found = p }, "-p", strconv.Itoa(pid))
	var exit *exec.ExitError
	if err == nil && found.Pid != pid || errors.As(err, &exit) {
		return Process{}, gone(ID{Pid: pid})
	}
	return found, err
}

// psColumns are what parsePS reads, without a heading. The ps of BSD systems, macOS among
// them, has all of them; "sess" there is an address, and of no use. The start is last, as it
// has blanks.
const psColumns = "pid=,ppid=,pgid=,state=,rss=,utime=,time=,lstart="

func ps(visit func(Process), which ...string) error {
	cmd := exec.Command("ps", append(which, "-o", psColumns)...)
	cmd.Env = []string{"PATH=/bin:/usr/bin", "LC_ALL=C", "TZ=UTC"}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	return parsePS(string(out), func(p Process) {
		p.Session, _ = unix.Getsid(p.Pid) // 0, which is nobody's, if it has gone
		visit(p)
	})
}
