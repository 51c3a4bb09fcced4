//go:build linux

package mesos

import (
	"errors"
	"fmt"
	"math"
	"os"

	"berth/container"
	"berth/containerizer"
	"berth/launcher/plan"
)

// terminal is the terminal that the request wants, or nil. With an image it is of the
// container's own devpts, and its console; else of the host's.
func (l *launch) terminal() (*plan.Terminal, error) {
	config := l.container.Config
	info := config.GetContainerInfo().GetTtyInfo()
	switch {
	case info == nil:
		return nil, nil
	case l.req.Terminal == nil:
		return nil, fmt.Errorf("tty_info: %w: nobody is there to hold the terminal", container.ErrNotSupported)
	}
	rows, columns := info.GetWindowSize().GetRows(), info.GetWindowSize().GetColumns()
	if rows > math.MaxUint16 || columns > math.MaxUint16 {
		return nil, fmt.Errorf("tty_info: %w: a window of %d rows and %d columns; the kernel knows at most %d of each", container.ErrInvalid, rows, columns, math.MaxUint16)
	}
	t := &plan.Terminal{Multiplexer: "/dev/pts/ptmx", Rows: uint16(rows), Columns: uint16(columns)}
	if config.GetRootfs() != "" {
		t.Console = "/dev/console"
	}
	return t, nil
}

// outputNames are the files of the sandbox, by descriptor.
var outputNames = map[int]string{1: "stdout", 2: "stderr"}

// logged lists the outputs that go to files of the sandbox.
func (l *launch) logged() (outputs []int) {
	if l.container.Config.GetContainerInfo().GetTtyInfo() != nil {
		return nil
	}
	for _, output := range []int{1, 2} {
		if l.req.Stdio[output] == nil {
			outputs = append(outputs, output)
		}
	}
	return outputs
}

// logs says which files berth-init is to bound, in sandbox, as the container sees it.
func (l *launch) logs(sandbox string) (*plan.Logs, error) {
	bound, outputs := l.req.Logs, l.logged()
	switch {
	case bound == containerizer.Logs{}, len(outputs) == 0:
		return nil, nil
	case bound.MaxSize < containerizer.MinLogSize:
		return nil, fmt.Errorf("logs of at most %d bytes: %w: at least %d are needed", bound.MaxSize, container.ErrInvalid, containerizer.MinLogSize)
	case bound.MaxFiles < 1:
		return nil, fmt.Errorf("logs in %d files: %w: at least one is needed", bound.MaxFiles, container.ErrInvalid)
	}
	return &plan.Logs{Outputs: outputs, Directory: sandbox, MaxSize: bound.MaxSize, MaxFiles: bound.MaxFiles}, nil
}

// openStdio returns the standard streams of the command, and those of them that are files
// of the sandbox, which are to be closed when the command has them: nothing stands between
// it and a file without a bound, and so nothing can break there.
func (l *launch) openStdio(user plan.Command) (stdio [3]*os.File, opened []*os.File, err error) {
	stdio = l.req.Stdio
	outputs := l.logged()
	if len(outputs) == 0 || l.req.Logs != (containerizer.Logs{}) {
		return stdio, nil, nil
	}
	sandbox, err := os.OpenRoot(l.container.Config.GetDirectory())
	if err != nil {
		return stdio, nil, err
	}
	defer func() { err = errors.Join(err, sandbox.Close()) }()
	for _, output := range outputs {
		file, err := sandbox.OpenFile(outputNames[output], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return stdio, opened, err
		}
		stdio[output], opened = file, append(opened, file)
		if err := errors.Join(file.Chown(int(user.UID), int(user.GID)), file.Chmod(0o644)); err != nil {
			return stdio, opened, err
		}
	}
	return stdio, opened, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
