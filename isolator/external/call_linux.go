package external

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"berth/container"
	"berth/internal/alone"
)

// timeout bounds one call; only tests change it.
var timeout = 30 * time.Second

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
	stdout := &alone.Bounded{Most: maxAnswer, Over: func() { cancel(refuse("its answer has more than %d bytes", maxAnswer)) }}
	stderr := &alone.Bounded{Most: maxNotes}
	cmd.Args[0] = program // by which a program of many names knows who it is
	cmd.Dir, cmd.Env = "/", []string{alone.SearchPath, "BERTH_PHASE=" + string(r.Phase), "BERTH_CONTAINER_ID=" + r.ContainerID}
	if r.Pid != 0 {
		cmd.Env = append(cmd.Env, "BERTH_PID="+strconv.Itoa(r.Pid))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	ended := alone.Run(cmd)
	switch cause := context.Cause(ctx); {
	case ended == nil:
	case cause != nil:
		return withNotes(cause, stderr)
	case errors.Is(ended, exec.ErrWaitDelay):
		return withNotes(refuse("it has left a process behind that holds its standard output"), stderr)
	}
	if err := conclude(ended, stdout.Kept.Bytes(), a); err != nil {
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

// maxNotes bounds what is taken of the standard error of one call, in bytes.
const maxNotes = 64 << 10

// withNotes adds the end of what a failed executable wrote to its standard error.
func withNotes(err error, stderr *alone.Bounded) error {
	text := strings.TrimSpace(stderr.Kept.String())
	if text == "" {
		return err
	}
	return fmt.Errorf("%w; it wrote: %s", err, oneLine(text[max(0, len(text)-maxMessage):]))
}

// note logs what an executable wrote that has not failed.
func (o Options) note(program string, stderr *alone.Bounded) {
	for line := range strings.Lines(stderr.Kept.String()) {
		o.Log.Warn("isolator "+program, slog.String("wrote", oneLine(line)))
	}
}
