package external

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"time"

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
	environment := []string{"BERTH_PHASE=" + string(r.Phase), "BERTH_CONTAINER_ID=" + r.ContainerID}
	if r.Pid != 0 {
		environment = append(environment, "BERTH_PID="+strconv.Itoa(r.Pid))
	}
	// By its name a program of many names knows who it is.
	body, notes, ended := alone.Call{Path: real, Name: program, Env: environment, Input: input, Timeout: timeout, MaxAnswer: maxAnswer, MaxNotes: maxNotes}.Run(ctx)
	var failed *exec.ExitError
	if ended == nil || errors.As(ended, &failed) {
		ended = conclude(ended, body, a)
	}
	if ended != nil {
		return alone.WithNotes(ended, notes)
	}
	o.note(program, notes)
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

// note logs what an executable wrote that has not failed.
func (o Options) note(program, notes string) {
	for line := range strings.Lines(notes) {
		o.Log.Warn("isolator "+program, slog.String("wrote", alone.OneLine(line)))
	}
}
