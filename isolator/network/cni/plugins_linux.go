package cni

import (
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
	answer, notes, err := alone.Call{Path: path, Env: onlyCNI(environment), Input: input, Timeout: timeout, MaxAnswer: maxAnswer, MaxNotes: maxNotes}.Run(ctx)
	var failed *exec.ExitError
	switch {
	case err == nil:
		return answer, nil
	case errors.As(err, &failed):
		err = said(err, answer)
	}
	return nil, alone.WithNotes(fmt.Errorf("plugin %s: %w", filepath.Clean(path), err), notes)
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
		return fmt.Errorf("%s; %s", alone.OneLine(e.Msg), alone.OneLine(e.Details))
	}
	return errors.New(alone.OneLine(e.Msg))
}
