// Package initproc is what launchers have in common: how berth-init is handed its plan,
// waits, is let go, and is known again by another process.
//
// It waits on a pipe. A byte lets it go; the end of the pipe, when berth has died, ends
// it. It reports by another one, which is closed once the command was executed.
package initproc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"berth/container"
	"berth/internal/atomicfile"
	"berth/internal/processes"
	"berth/launcher"
	"berth/launcher/plan"
)

// Name is the program that becomes the first process of a container.
const Name = "berth-init"

// Find returns the path of the program in a directory. ErrFailedPrecondition: it is not
// there.
func Find(dir string) (string, error) {
	path := filepath.Join(dir, Name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: %w: install %s there, or name its directory with --launcher_dir", container.ErrFailedPrecondition, err, Name)
	}
	return path, nil
}

// Channels are what berth and a new berth-init share.
type Channels struct {
	// Files are for berth-init; the caller may set Parent.
	Files plan.Files
	spec  launcher.Spec
	null  *os.File
	p     *Process
}

// Open opens the channels of a container. The caller owes a Close.
func Open(spec launcher.Spec) (_ *Channels, err error) {
	c := &Channels{spec: spec, p: &Process{end: newEnd()}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.Files.Plan, err = planFile(spec.Plan); err != nil {
		return nil, err
	}
	if c.Files.Status, err = os.OpenFile(spec.Status, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	if c.Files.Release, c.p.release, err = os.Pipe(); err != nil {
		return nil, err
	}
	if c.p.report, c.Files.Report, err = os.Pipe(); err != nil {
		return nil, err
	}
	c.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	return c, err
}

// Close closes what only berth-init needs, and everything when that was not started.
func (c *Channels) Close() error {
	var errs []error
	for _, f := range append(c.Files.List(), c.null) {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if c.p.process == nil {
		errs = append(errs, c.p.closeChannels())
	}
	return errors.Join(errs...)
}

// Start executes berth-init by start, which does what os.StartProcess does with these
// attributes; it may set Sys.
func (c *Channels) Start(start func(*os.ProcAttr) (*os.Process, error)) (*Process, error) {
	var attr os.ProcAttr
	files := c.Files
	// The caller's.
	files.Terminal, files.Logs, files.Input, files.Control = c.spec.Terminal, c.spec.Logs, c.spec.Input, c.spec.Control
	// Nothing of berth's environment is the container's. A berth-init does one thing after the
	// other: with one processor the Go runtime starts no threads that look for work.
	attr.Env = []string{"GOMAXPROCS=1"}
	attr.Dir = "/"
	attr.Files = slices.Concat(c.orNull(c.spec.Stdio[:]), c.orNull(files.List()))
	process, err := start(&attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", Name, err)
	}
	c.p.process = process
	return c.p, nil
}

// orNull puts /dev/null in the place of files that there are not: whatever was opened next
// would have their numbers.
func (c *Channels) orNull(files []*os.File) []*os.File {
	files = slices.Clone(files)
	for i, f := range files {
		if f == nil {
			files[i] = c.null
		}
	}
	return files
}

// Record writes down which process is the init process of a container.
func Record(path string, pid int) error {
	p, err := processes.Look(pid)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(p.ID.String()+"\n"), 0o600, false)
}

// Recorded reads what Record wrote. ErrNotFound: nothing that could be read was recorded.
func Recorded(path string) (processes.ID, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return processes.ID{}, err
	}
	id, err := processes.ParseID(string(data))
	if err != nil {
		return processes.ID{}, fmt.Errorf("%s: %w", path, container.ErrNotFound)
	}
	return id, nil
}

// Attach takes up the recorded init process. ErrNotFound: it has ended, or none that could
// be read was recorded.
func Attach(path string) (launcher.Process, error) {
	h, err := OpenRecorded(path)
	if err != nil {
		return nil, err
	}
	return &attached{h, newEnd()}, nil
}

// OpenRecorded returns a handle of the recorded init process; errors are those of Attach.
func OpenRecorded(path string) (*processes.Handle, error) {
	id, err := Recorded(path)
	if err != nil {
		return nil, err
	}
	return processes.Open(id)
}
