//go:build linux

package mesos

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"

	"berth/container"
	"berth/containerizer"
	"berth/internal/mount"
	"berth/launcher"
	"berth/launcher/plan"
)

// streams is what is to be known, by whoever attaches, of how a container's streams were
// made.
type streams struct {
	// Files lists the outputs that are files of the sandbox.
	Files []containerizer.Stream `json:"files,omitempty"`
	// MaxFiles is how many there are of each; 0: one without a bound.
	MaxFiles int `json:"max_files,omitempty"`
	// Terminal: berth-init keeps one.
	Terminal bool `json:"terminal,omitempty"`
	Input    bool `json:"input,omitempty"`
}

func (l *launch) streams() streams {
	s := streams{MaxFiles: l.req.Logs.MaxFiles, Terminal: l.keepsTerminal(), Input: l.req.Input}
	for _, output := range l.logged() {
		s.Files = append(s.Files, outputNames[output])
	}
	return s
}

// outputNames are the files of the sandbox, by descriptor.
var outputNames = map[int]containerizer.Stream{1: containerizer.Stdout, 2: containerizer.Stderr}

func (l *launch) hasTerminal() bool {
	return l.container.Config.GetContainerInfo().GetTtyInfo() != nil
}

// keepsTerminal reports whether berth-init has the terminal, as nobody else wants it.
func (l *launch) keepsTerminal() bool { return l.hasTerminal() && l.req.Terminal == nil }

// terminal is the terminal that the request wants, or nil. With an image it is of the
// container's own devpts, and its console; else of the host's, and for DEBUG of the parent's.
func (l *launch) terminal() (*plan.Terminal, error) {
	if err := l.checkInput(); err != nil || !l.hasTerminal() {
		return nil, err
	}
	config := l.container.Config
	size := config.GetContainerInfo().GetTtyInfo().GetWindowSize()
	rows, columns := size.GetRows(), size.GetColumns()
	if rows > math.MaxUint16 || columns > math.MaxUint16 {
		return nil, fmt.Errorf("tty_info: %w: a window of %d rows and %d columns; the kernel knows at most %d of each", container.ErrInvalid, rows, columns, math.MaxUint16)
	}
	t := &plan.Terminal{Kept: l.keepsTerminal(), Multiplexer: "/dev/pts/ptmx", Rows: uint16(rows), Columns: uint16(columns)}
	if config.GetRootfs() != "" {
		t.Console = "/dev/console"
	}
	return t, nil
}

// checkInput refuses an input that has two ends.
func (l *launch) checkInput() error {
	if l.req.Input && (l.req.Stdio[0] != nil || l.req.Terminal != nil) {
		return fmt.Errorf("the input: %w: it is given with the request, and to be attached to; one of both", container.ErrInvalid)
	}
	return nil
}

// logged lists the outputs that go to files of the sandbox.
func (l *launch) logged() (outputs []int) {
	if l.keepsTerminal() {
		return []int{1}
	}
	if l.hasTerminal() {
		return nil
	}
	for _, output := range []int{1, 2} {
		if l.req.Stdio[output] == nil {
			outputs = append(outputs, output)
		}
	}
	return outputs
}

// logs says which files berth-init is to write.
func (l *launch) logs() (*plan.Logs, error) {
	bound, outputs := l.req.Logs, l.logged()
	none := bound == containerizer.Logs{}
	switch {
	case len(outputs) == 0, none && !l.keepsTerminal():
		return nil, nil
	case none:
		return &plan.Logs{Outputs: outputs}, nil
	case bound.MaxSize < containerizer.MinLogSize:
		return nil, fmt.Errorf("logs of at most %d bytes: %w: at least %d are needed", bound.MaxSize, container.ErrInvalid, containerizer.MinLogSize)
	case bound.MaxFiles < 1:
		return nil, fmt.Errorf("logs in %d files: %w: at least one is needed", bound.MaxFiles, container.ErrInvalid)
	}
	return &plan.Logs{Outputs: outputs, MaxSize: bound.MaxSize, MaxFiles: bound.MaxFiles}, nil
}

// openStreams opens the streams that are files. After an error, too, the caller owes a
// closeStreams.
func (l *launch) openStreams(p plan.Plan, spec *launcher.Spec) (err error) {
	if l.req.Input {
		if spec.Stdio[0], spec.Input, err = l.openInput(p); err != nil {
			return err
		}
	}
	if l.req.Input || l.keepsTerminal() {
		if spec.Control, err = makePipe(l.records.Control()); err != nil {
			return err
		}
	}
	if p.Logs != nil {
		spec.Logs, err = l.openLogDirectory()
		return err
	}
	for _, output := range l.logged() {
		if spec.Stdio[output], err = l.openLog(string(outputNames[output]), p.Command); err != nil {
			return err
		}
	}
	return nil
}

// closeStreams closes what openStreams has opened, and the container has by now.
func (l *launch) closeStreams(spec launcher.Spec) {
	for i, f := range spec.Stdio {
		if f != l.req.Stdio[i] {
			f.Close()
		}
	}
	for _, f := range []*os.File{spec.Logs, spec.Input, spec.Control} {
		f.Close() // of those that there are not, an error that says so
	}
}

// openLog opens an output that the command writes itself: nothing stands between it and
// a file without a bound, and so nothing can break there.
func (l *launch) openLog(name string, user plan.Command) (file *os.File, err error) {
	sandbox, err := os.OpenRoot(l.container.Config.GetDirectory())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sandbox.Close()) }()
	if file, err = sandbox.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
		return nil, err
	}
	if err := errors.Join(file.Chown(int(user.UID), int(user.GID)), file.Chmod(0o644)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if l.container.IDs.IsHost() {
		return file, nil
	}
	// Through a mount on which it is the user's: it can be opened by name, as /dev/stdout.
	mapped, err := l.cloneSandbox()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d/%s", mapped.FD(), name), os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0)
	return again, errors.Join(err, file.Close(), mapped.Close())
}

// openLogDirectory opens the sandbox for berth-init. The container may reach what that has
// open, through /proc/1/fd: so it is a mount of the sandbox alone, which has no way up.
func (l *launch) openLogDirectory() (*os.File, error) {
	sandbox, err := l.cloneSandbox()
	if err != nil {
		return nil, err
	}
	if err := sandbox.Set(mount.NoSuid|mount.NoDev|mount.NoExec, false); err != nil {
		return nil, errors.Join(err, sandbox.Close())
	}
	return os.NewFile(uintptr(sandbox.FD()), "sandbox"), nil
}

// openInput makes the pipe by which the input is written: for the command, and for
// berth-init, which keeps it open. With a terminal it leads to berth-init, which types.
func (l *launch) openInput(p plan.Plan) (theirs, kept *os.File, err error) {
	pipe, err := makePipe(l.records.Input())
	if err != nil || p.Terminal != nil {
		return nil, pipe, err
	}
	// By this one, opening the others does not wait.
	defer func() { err = errors.Join(err, pipe.Close()) }()
	// As it is the command's, it can be opened by name, as /dev/stdin.
	if err := pipe.Chown(int(l.container.IDs.OnHost(p.Command.UID)), int(l.container.IDs.OnHost(p.Command.GID))); err != nil {
		return nil, nil, err
	}
	if theirs, err = os.OpenFile(l.records.Input(), os.O_RDONLY, 0); err != nil {
		return nil, nil, err
	}
	if kept, err = os.OpenFile(l.records.Input(), os.O_WRONLY, 0); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return theirs, kept, nil
}

// makePipe makes a pipe with a name, and opens both its ends: so it has no end.
func makePipe(path string) (*os.File, error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}
