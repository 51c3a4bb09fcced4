//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/launcher"
)

var _ containerizer.Inspector = (*Containerizer)(nil)

// Inspect implements containerizer.Inspector.
func (c *Containerizer) Inspect(ctx context.Context, id container.ID) (containerizer.Inspection, error) {
	e, err := c.find(id)
	if err != nil {
		return containerizer.Inspection{}, err
	}
	l := e.launch
	if !closed(e.launched) {
		return containerizer.Inspection{State: l.currentState(), Config: v1.WithoutSecrets(l.req.Config)}, nil
	}
	found := containerizer.Inspection{State: l.currentState(), Config: l.currentConfig(), Launched: l.made.Launched}
	if closed(e.done) {
		found.State, found.Ended, found.Termination = container.Ended, e.ended, &e.termination
		return found, nil
	}
	if l.process != nil {
		found.Pid = l.process.Pid()
	}
	if found.State == container.Running {
		found.Given, err = l.given(ctx)
	}
	return found, err
}

// currentConfig is the request with the limits that are in force. That of a container that had
// ended when it was taken up again is in its record.
func (l *launch) currentConfig() *v1.ContainerConfig {
	l.updating.Lock()
	defer l.updating.Unlock()
	if l.container != nil {
		return v1.WithoutSecrets(l.container.Config)
	}
	config := &v1.ContainerConfig{}
	if err := readRecord(l.records.Config(), func(data []byte) error { return v1.Unmarshal(data, config) }); err != nil {
		return &v1.ContainerConfig{} // torn, or of a berth that did not keep it
	}
	return config
}

// Processes implements containerizer.Inspector.
func (c *Containerizer) Processes(ctx context.Context, id container.ID) ([]containerizer.Process, error) {
	if _, err := c.running(ctx, id); err != nil {
		return nil, err
	}
	lister, ok := c.Launcher.(launcher.Lister)
	if !ok {
		return nil, fmt.Errorf("processes of %s: %w: this launcher cannot tell", id, container.ErrNotSupported)
	}
	pids, err := lister.Processes(id)
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	var all []containerizer.Process
	for _, pid := range pids {
		if p, err := readProcess(pid); err == nil { // else it has ended
			all = append(all, p)
		}
	}
	return all, nil
}

// USER_HZ, which is the same on all architectures that Go knows.
const ticksPerSecond = 100

// readProcess reads proc_pid_stat(5) and the arguments of a process.
func readProcess(pid int) (p containerizer.Process, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	info, err := os.Stat(dir)
	if err != nil {
		return p, err
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, err
	}
	// The name, in parentheses, may have anything in it.
	open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if open < 0 || end < open {
		return p, errors.New(dir + "/stat has no name")
	}
	fields := strings.Fields(string(stat[end+1:])) // from the third on
	number := func(field int) uint64 {
		if field-3 >= len(fields) {
			return 0
		}
		n, _ := strconv.ParseUint(fields[field-3], 10, 64)
		return n
	}
	ticks := func(n uint64) time.Duration { return time.Duration(n) * (time.Second / ticksPerSecond) }
	p = containerizer.Process{
		Pid: pid, Parent: int(number(4)), CPU: ticks(number(14) + number(15)), RSS: number(24) * uint64(os.Getpagesize()),
		Command: arguments(dir, string(stat[open+1:end])),
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		p.UID = owner.Uid
	}
	p.Started, err = sinceBoot(ticks(number(22)))
	return p, err
}

// maxArguments bounds what is read of the arguments of a process.
const maxArguments = 4096

func arguments(dir, name string) string {
	file, err := os.Open(dir + "/cmdline")
	if err != nil {
		return "[" + name + "]"
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxArguments))
	line := strings.TrimRight(strings.ReplaceAll(string(text), "\x00", " "), " ")
	if err != nil || line == "" {
		return "[" + name + "]"
	}
	return line
}

// sinceBoot is the time so long after the boot.
func sinceBoot(d time.Duration) (time.Time, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	up, err := strconv.ParseFloat(first, 64)
	return time.Now().Add(d - time.Duration(up*float64(time.Second))), err
}

// tell tells whoever wants to know what has happened.
func (c *Containerizer) tell(event containerizer.Event) {
	if c.Observe != nil {
		c.Observe(event)
	}
}
