package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/container"
	"berth/internal/filelock"
)

// An agent that was killed while it cloned a process leaves its lock with that one, for a
// moment: the next agent waits for it, but not for an agent that lives.
func TestTheLockOfADeadAgentIsWaitedFor(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent.lock")
	held, err := filelock.Try(path, filelock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lockAgent(path); !errors.Is(err, container.ErrFailedPrecondition) || !strings.Contains(err.Error(), fmt.Sprint("process id ", os.Getpid())) {
		t.Errorf("the lock of an agent that lives: %v", err)
	}
	if err := os.WriteFile(path, fmt.Appendln(nil, dead.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() {
		if err := held.Unlock(); err != nil {
			t.Error(err)
		}
	})
	lock, err := lockAgent(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}
