package external

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

// timeout bounds one call; only tests change it.
var timeout = 30 * time.Second

// searchPath is all that an executable gets of an environment, besides its request.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// call runs an executable with a request and reads its answer. Errors name it, and are of
// the class that it says.
func (o Options) call(ctx context.Context, program string, r request, a answer) error {
	err := o.run(ctx, program, r, a)
	if err == nil {
		return nil
	}
	about := ""
	if r.ContainerID != "" {
		about = " container " + r.ContainerID
	}
	return fmt.Errorf("isolator %s: %s%s: %w", program, r.Phase, about, err)
}

func (o Options) run(ctx context.Context, program string, r request, a answer) error {
	r.Version = version
	input, err := json.Marshal(r)
	if err != nil {
		return err
	}
	real, err := trusted(program)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: no answer within %v", container.ErrUnavailable, timeout))
	defer stop()
	cmd := exec.CommandContext(ctx, real)
	stdout := &bounded{most: maxAnswer, over: func() { cancel(refuse("its answer has more than %d bytes", maxAnswer)) }}
	stderr := &bounded{most: maxNotes}
	cmd.Args[0] = program // by which a program of many names knows who it is
	cmd.Dir, cmd.Env = "/", []string{searchPath, "BERTH_PHASE=" + string(r.Phase), "BERTH_CONTAINER_ID=" + r.ContainerID}
	if r.Pid != 0 {
		cmd.Env = append(cmd.Env, "BERTH_PID="+strconv.Itoa(r.Pid))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	ended := runAlone(cmd)
	switch cause := context.Cause(ctx); {
	case ended == nil:
	case cause != nil:
		return withNotes(cause, stderr)
	case errors.Is(ended, exec.ErrWaitDelay):
		return withNotes(refuse("it has left a process behind that holds its standard output"), stderr)
	}
	if err := conclude(ended, stdout.kept.Bytes(), a); err != nil {
		return withNotes(err, stderr)
	}
	o.note(program, stderr)
	return nil
}

// conclude puts what an executable said and how it ended together. Its own error says
// more than its exit status.
func conclude(ended error, body []byte, a answer) error {
	decoded := decode(body, a)
	failed := decoded == nil && a.said() != nil
	switch {
	case failed:
		return a.said().err()
	case ended != nil:
		return ended // such as: exit status 1
	case decoded != nil:
		return fmt.Errorf("its answer: %w", decoded)
	}
	return nil
}

// held is how long a process that left the group may hold the standard streams.
const held = time.Second

// runAlone runs a command in a process group of its own, of which nothing is left
// afterwards. It ends with this process, and when its context does.
func runAlone(cmd *exec.Cmd) error {
	// The parent-death signal is sent when the thread ends that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = kill, held
	if err := cmd.Start(); err != nil {
		return err
	}
	// As long as it is not waited for, the number of the group is its own.
	for {
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	kill()
	return cmd.Wait()
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	kept bytes.Buffer // not embedded: its ReadFrom would take everything
	most int
	over func() // called when there are more; nil: they are dropped
}

func (b *bounded) Write(p []byte) (int, error) {
	fits := min(len(p), b.most-b.kept.Len())
	b.kept.Write(p[:fits])
	if fits < len(p) && b.over != nil {
		b.over()
		return fits, errors.New("too much")
	}
	return len(p), nil
}

// maxNotes bounds what is taken of the standard error of one call, in bytes.
const maxNotes = 64 << 10

// withNotes adds the end of what a failed executable wrote to its standard error.
func withNotes(err error, stderr *bounded) error {
	text := strings.TrimSpace(stderr.kept.String())
	if text == "" {
		return err
	}
	return fmt.Errorf("%w; it wrote: %s", err, oneLine(text[max(0, len(text)-maxMessage):]))
}

// note logs what an executable wrote that has not failed.
func (o Options) note(program string, stderr *bounded) {
	for line := range strings.Lines(stderr.kept.String()) {
		o.Log.Warn("isolator "+program, slog.String("wrote", oneLine(line)))
	}
}
