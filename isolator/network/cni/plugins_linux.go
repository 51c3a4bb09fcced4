package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"berth/container"
	"berth/internal/alone"
)

// The bounds of one call of a plugin: how long it may take, and what it may say. Only
// tests change the first.
var timeout = 30 * time.Second

const (
	maxAnswer = 1 << 20
	maxNotes  = 4 << 10
)

// plugins calls plugins for libcni.
type plugins struct{ *version.PluginDecoder }

var _ invoke.Exec = plugins{}

// FindInPath implements invoke.Exec.
func (plugins) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		err = fmt.Errorf("plugin %q: %w: it is not in %s: install it there (Debian: containernetworking-plugins), or name its directory with --network_cni_plugins_dir",
			plugin, container.ErrNotSupported, strings.Join(dirs, ":"))
	}
	return path, err
}

// ExecPlugin implements invoke.Exec. Of an environment the plugin gets what the
// specification says, and a PATH: that of berth may have secrets.
func (plugins) ExecPlugin(ctx context.Context, path string, input []byte, environment []string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: no answer within %v", container.ErrUnavailable, timeout))
	defer stop()
	stdout := &alone.Bounded{Most: maxAnswer, Over: func() {
		cancel(fmt.Errorf("%w: its answer has more than %d bytes", container.ErrInvalid, maxAnswer))
	}}
	stderr := &alone.Bounded{Most: maxNotes}
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir, cmd.Env = "/", append(onlyCNI(environment), alone.SearchPath)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	err := alone.Run(cmd)
	switch cause := context.Cause(ctx); {
	case err == nil:
		return stdout.Kept.Bytes(), nil
	case cause != nil:
		err = cause
	case errors.Is(err, exec.ErrWaitDelay):
		err = fmt.Errorf("%w: it has left a process behind that holds its standard output", container.ErrInvalid)
	default:
		err = said(err, stdout.Kept.Bytes())
	}
	return nil, withNotes(fmt.Errorf("plugin %s: %w", filepath.Clean(path), err), stderr.Kept.String())
}

func onlyCNI(environment []string) (only []string) {
	for _, entry := range environment {
		if strings.HasPrefix(entry, "CNI_") {
			only = append(only, entry)
		}
	}
	return only
}

// said is the error that a failed plugin answers with; without one, how it ended.
func said(ended error, answer []byte) error {
	var e types.Error
	if json.Unmarshal(answer, &e) != nil || e.Msg == "" {
		return ended // such as: exit status 1
	}
	if e.Details != "" {
		return fmt.Errorf("%s; %s", oneLine(e.Msg), oneLine(e.Details))
	}
	return errors.New(oneLine(e.Msg))
}

// withNotes adds what a failed plugin wrote to its standard error.
func withNotes(err error, notes string) error {
	if notes = strings.TrimSpace(notes); notes == "" {
		return err
	}
	return fmt.Errorf("%w; it wrote: %s", err, oneLine(notes))
}

// oneLine is text for the middle of an error: bounded, and without control characters.
func oneLine(text string) string {
	const most = 1 << 10
	text = strings.ToValidUTF8(text[:min(len(text), most)], "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
}
