//go:build linux

package mem

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"berth/internal/cgroup"
)

// consumer is a process and its memory.
type consumer struct {
	pid    int
	name   string
	bytes  uint64
	killed bool
}

// most consumers that a message names.
const mostConsumers = 3

// consumers tells of the biggest processes of a container: whom the kernel killed, as its
// log says, and those that there are. It is for a message only: what cannot be found out
// is left out.
func consumers(dir cgroup.Dir, kills uint64) string {
	all := append(killedOnes(dir, kills), living(dir)...)
	slices.SortStableFunc(all, func(a, b consumer) int { return cmp.Compare(b.bytes, a.bytes) })
	var words []string
	for _, c := range all[:min(len(all), mostConsumers)] {
		word := fmt.Sprintf("%q (process %d) %d MiB", c.name, c.pid, c.bytes/mib)
		if c.killed {
			word += ", killed"
		}
		words = append(words, word)
	}
	if len(words) == 0 {
		return ""
	}
	return "; the biggest: " + strings.Join(words, "; ")
}

// living are the processes in the cgroup, and in v2's leaf below it.
func living(dir cgroup.Dir) (all []consumer) {
	pids, err := dir.Processes()
	if err != nil {
		return nil
	}
	for _, pid := range pids {
		proc := "/proc/" + strconv.Itoa(pid)
		statm, err := os.ReadFile(proc + "/statm")
		fields := strings.Fields(string(statm))
		if err != nil || len(fields) < 2 {
			continue
		}
		pages, err := strconv.ParseUint(fields[1], 10, 64)
		name, nameErr := os.ReadFile(proc + "/comm")
		if errors.Join(err, nameErr) == nil && pages > 0 {
			all = append(all, consumer{pid, strings.TrimSuffix(string(name), "\n"), pages * uint64(os.Getpagesize()), false})
		}
	}
	return all
}

// The two lines of the kernel's log about a kill. A process can have any name; the groups
// of the first are the cgroup of the limit, that of the process and its id.
var (
	constraintLine = lazily(`oom-kill:.*,oom_memcg=([^,]*),task_memcg=([^,]*),task=.*,pid=(\d+),uid=\d+`)
	killedLine     = lazily(`Killed process (\d+) \((.*)\) total-vm:\d+kB, anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB`)
)

// lazily compiles when it is needed: most processes never do.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// killedOnes are the processes that the kernel says it has killed in a cgroup.
func killedOnes(dir cgroup.Dir, kills uint64) []consumer {
	log, err := kernelLog()
	if err != nil {
		return nil
	}
	return parseKills(log, dir.Path(), kills)
}

// parseKills reads messages of the kernel's log: about the last so many kills, as those
// before were in an earlier container of the same name. The paths in it begin at the mount
// point of the hierarchy, that of dir at the root.
func parseKills(log []string, dir string, kills uint64) (all []consumer) {
	ours := make(map[string]bool)
	for _, line := range log {
		if m := constraintLine().FindStringSubmatch(line); m != nil {
			// The limit may be that of a cgroup above or below.
			ours[m[3]] = len(m[2]) > 1 && (strings.HasSuffix(dir, m[2]) || strings.Contains(m[2]+"/", tail(dir)+"/"))
			continue
		}
		m := killedLine().FindStringSubmatch(line)
		if m == nil || !ours[m[1]] {
			continue
		}
		c := consumer{name: m[2], killed: true}
		c.pid, _ = strconv.Atoi(m[1])
		for _, kib := range m[3:] {
			n, _ := strconv.ParseUint(kib, 10, 53)
			c.bytes += n << 10
		}
		all = append(all, c)
	}
	return all[len(all)-int(min(kills, uint64(len(all)))):]
}

// tail is the end of a cgroup's path that tells it from others: that of its parent and its
// own name.
func tail(dir string) string {
	parts := strings.Split(dir, "/")
	return "/" + strings.Join(parts[max(0, len(parts)-2):], "/")
}

// kernelLog returns the messages of the kernel itself that its buffer holds.
func kernelLog() (messages []string, err error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buffer := make([]byte, 8192) // more than a record has
	for {
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // the oldest were overwritten
			continue
		case err != nil: // EAGAIN: that was all
			return messages, nil
		}
		prefix, message, _ := bytes.Cut(buffer[:n], []byte(";"))
		priority, _, _ := bytes.Cut(prefix, []byte(","))
		// Of facility 0: what programs write there has another one.
		if level, err := strconv.Atoi(string(priority)); err == nil && level < 8 {
			line, _, _ := bytes.Cut(message, []byte("\n"))
			messages = append(messages, string(line))
		}
	}
}
