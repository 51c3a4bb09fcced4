package testrig

import (
	"bufio"
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"berth/container"
	"berth/internal/processes"
)

// Trees stands for a launcher whose containers are trees of real processes.
type Trees map[container.ID]*exec.Cmd

// Start starts a script as a container, and returns when it has written a line. At the end
// of the test it is ended.
func (trees Trees) Start(t testing.TB, id container.ID, script string) (pid int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	trees[id] = cmd
	t.Cleanup(func() { trees.end(cmd) })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// Fork starts a container that does nothing.
func (trees Trees) Fork(t *testing.T, id container.ID) int {
	t.Helper()
	return trees.Start(t, id, "echo; exec sleep 1000")
}

// Gone ends a container.
func (trees Trees) Gone(_ *testing.T, id container.ID) { trees.end(trees[id]) }

func (trees Trees) end(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}
}

// Processes returns those of a container.
func (trees Trees) Processes(id container.ID) (pids []int, err error) {
	cmd, ok := trees[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, container.ErrNotFound)
	}
	p, err := processes.Look(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	tree, err := processes.Tree(p.ID)
	for _, p := range tree {
		pids = append(pids, p.Pid)
	}
	return pids, err
}
