package alone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"berth/container"
)

// searchPath is the PATH of programs: they get nothing else of berth's environment.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Call is one call of a program that reads a request and answers.
type Call struct {
	Path string
	Name string   // as which it is called; empty: its Path
	Env  []string // beside PATH
	// Input is its standard input.
	Input []byte
	// Timeout bounds the time that it may take, MaxAnswer what it may write to its standard
	// output, in bytes. What is beyond MaxNotes of its standard error is dropped.
	Timeout             time.Duration
	MaxAnswer, MaxNotes int
}

// Run calls the program, and returns what it wrote to its standard output and its standard
// error, beside an error too. That is the cause of the end of ctx; of class
// ErrUnavailable when it took too long; of class ErrInvalid when it answered too much, or left
// behind who holds its output; or what os/exec says, an *exec.ExitError when it failed.
func (c Call) Run(ctx context.Context) (answer []byte, notes string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("%w: no answer within %v", container.ErrUnavailable, c.Timeout))
	defer stop()
	stdout := &bounded{most: c.MaxAnswer, over: func() {
		cancel(fmt.Errorf("%w: its answer has more than %d bytes", container.ErrInvalid, c.MaxAnswer))
	}}
	stderr := &bounded{most: c.MaxNotes}
	cmd := exec.CommandContext(ctx, filepath.Clean(c.Path))
	if c.Name != "" {
		cmd.Args[0] = c.Name
	}
	cmd.Dir, cmd.Env = "/", append([]string{searchPath}, c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Input), stdout, stderr
	err = run(cmd)
	switch cause := context.Cause(ctx); {
	case err == nil:
	case cause != nil:
		err = cause
	case errors.Is(err, exec.ErrWaitDelay):
		err = fmt.Errorf("%w: it has left a process behind that holds its standard output", container.ErrInvalid)
	}
	return stdout.kept.Bytes(), stderr.kept.String(), err
}

// maxQuoted bounds what is repeated of a program's words in an error, in bytes.
const maxQuoted = 1000

// WithNotes adds the end of what a failed program wrote to its standard error.
func WithNotes(err error, notes string) error {
	if notes = strings.TrimSpace(notes); notes == "" {
		return err
	}
	return fmt.Errorf("%w; it wrote: %s", err, OneLine(notes[max(0, len(notes)-maxQuoted):]))
}

// OneLine makes words of a program fit for the middle of an error: bounded, and without control
// characters.
func OneLine(words string) string {
	words = strings.Join(strings.FieldsFunc(words, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
	if len(words) > maxQuoted {
		words = strings.ToValidUTF8(words[:maxQuoted], "") + "..."
	}
	return strings.ToValidUTF8(strings.TrimSpace(words), "\uFFFD")
}
