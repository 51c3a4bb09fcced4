//go:build linux

// Package external makes isolators of executables: an operator adds one without building
// berth anew. external/NAME is the executable NAME in a directory of them. It is run once
// for each phase, gets a request as JSON on its standard input and answers with JSON on
// its standard output; docs/isolators.md has the protocol.
//
// It is a program of the operator, and runs as root. So it has to belong to root, and so
// has every directory on its path; what it answers is bounded and checked all the same.
//
// Before an executable is asked to prepare a container, it is recorded with the container:
// whoever destroys that finds it, also a process that has another configuration.
package external

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/atomicfile"
	"berth/isolator"
)

// Prefix begins the names of these isolators.
const Prefix = "external/"

// Options are what all of the isolators of a directory are made of.
type Options struct {
	// Dir has the executables.
	Dir string
	// Records is the directory in which the executables are recorded that have prepared a
	// container, a file for each.
	Records func(container.ID) string
	// SandboxDirectory is where a container with an image finds its sandbox.
	SandboxDirectory string
	// Log takes what executables write to their standard error.
	Log *slog.Logger
}

// Isolator implements isolator.Isolator, Enforcer, Updater, Meter and Recoverer. To phases
// that its executable does not take part in it says nothing.
type Isolator struct {
	Options
	name    string // with Prefix
	program string
	phases  []phase
}

// validName allows neither dots, which names of temporary files have, nor slashes.
func validName(s string) bool {
	return s != "" && !strings.ContainsRune("_-", rune(s[0])) && strings.Trim(s, lettersAndDigits+"_-") == ""
}

const lettersAndDigits = "abcdefghijklmnopqrstuvwxyz0123456789"

// New returns the isolator of a name, which begins with Prefix. It asks the executable
// which phases it takes part in. ErrInvalid: the name, or what it answers;
// ErrNotSupported: it speaks another version of the protocol; ErrNotFound: there is no such
// executable; ErrFailedPrecondition: others than root can change it.
func New(ctx context.Context, name string, o Options) (*Isolator, error) {
	file := strings.TrimPrefix(name, Prefix)
	if !validName(file) {
		return nil, fmt.Errorf("isolator %q: %w: the name of an executable has lower case letters, digits, - and _", name, container.ErrInvalid)
	}
	path, err := filepath.Abs(filepath.Join(o.Dir, file))
	if err != nil {
		return nil, err
	}
	i := &Isolator{Options: o, name: name, program: path}
	var answer description
	if err := o.call(ctx, path, request{Phase: describe}, &answer); err != nil {
		return nil, err
	}
	if err := answer.check(); err != nil {
		return nil, fmt.Errorf("isolator %s: its answer to describe: %w", path, err)
	}
	i.phases = answer.Phases
	return i, nil
}

// List returns the names of the isolators in a directory; none if there is no directory.
func List(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if validName(e.Name()) && !e.IsDir() {
			names = append(names, Prefix+e.Name())
		}
	}
	return names, err
}

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if slices.Contains(i.phases, cleanup) {
		if err := i.record(c.ID); err != nil {
			return nil, fmt.Errorf("isolator %s: record that it prepares container %s: %w", i.program, c.ID, err)
		}
	}
	if !slices.Contains(i.phases, prepare) {
		return nil, nil
	}
	var answer part
	if err := i.ask(ctx, prepare, c, 0, &answer); err != nil {
		return nil, err
	}
	info, err := answer.launchInfo(c.Config, i.SandboxDirectory)
	if err != nil {
		return nil, fmt.Errorf("isolator %s: its answer to prepare container %s: %w", i.program, c.ID, err)
	}
	return info, nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(ctx context.Context, c *isolator.Container, pid int) error {
	if !slices.Contains(i.phases, isolate) {
		return nil
	}
	return i.ask(ctx, isolate, c, pid, &nothing{})
}

// Update implements isolator.Updater.
func (i *Isolator) Update(ctx context.Context, c *isolator.Container) error {
	if !slices.Contains(i.phases, update) {
		return nil
	}
	return i.ask(ctx, update, c, 0, &nothing{})
}

// Usage implements isolator.Meter.
func (i *Isolator) Usage(ctx context.Context, id container.ID, to *v1.ResourceStatistics) error {
	if !slices.Contains(i.phases, usage) {
		return nil
	}
	var answer measured
	if err := i.call(ctx, i.program, request{Phase: usage, ContainerID: id.String()}, &answer); err != nil {
		return err
	}
	if err := answer.addTo(to); err != nil {
		return fmt.Errorf("isolator %s: its answer to usage of container %s: %w", i.program, id, err)
	}
	return nil
}

// Recover implements isolator.Recoverer. One that has nothing to take up is not asked:
// what is gone it was, or will be, asked to clean up.
func (i *Isolator) Recover(ctx context.Context, containers []*isolator.Container) error {
	if !slices.Contains(i.phases, recovery) || len(containers) == 0 {
		return nil
	}
	r := request{Phase: recovery}
	for _, c := range containers {
		config, err := v1.Marshal(c.Config)
		if err != nil {
			return fmt.Errorf("isolator %s: the request for container %s: %w", i.program, c.ID, err)
		}
		r.Containers = append(r.Containers, living{c.ID.String(), config})
	}
	return i.call(ctx, i.program, r, &nothing{})
}

// ask sends the request of a container.
func (i *Isolator) ask(ctx context.Context, p phase, c *isolator.Container, pid int, answer answer) error {
	config, err := v1.Marshal(c.Config)
	if err != nil {
		return fmt.Errorf("isolator %s: the request for container %s: %w", i.program, c.ID, err)
	}
	return i.call(ctx, i.program, request{Phase: p, ContainerID: c.ID.String(), Config: json.RawMessage(config), Pid: pid}, answer)
}

// Cleanup implements isolator.Isolator. A container that the executable never prepared
// has no record.
func (i *Isolator) Cleanup(ctx context.Context, id container.ID) error {
	return i.cleanup(ctx, id, strings.TrimPrefix(i.name, Prefix))
}

func (i *Isolator) record(id container.ID) error {
	dir := i.Records(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, strings.TrimPrefix(i.name, Prefix)), []byte(i.program+"\n"), 0o600, false)
}

// cleanup has a recorded executable remove what it has made, and forgets it.
func (o Options) cleanup(ctx context.Context, id container.ID, file string) error {
	record := filepath.Join(o.Records(id), file)
	program, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = o.call(ctx, strings.TrimSuffix(string(program), "\n"), request{Phase: cleanup, ContainerID: id.String()}, &nothing{})
	}
	if err != nil {
		return fmt.Errorf("clean up container %s (once that is not needed any more, remove %s): %w", id, record, err)
	}
	return os.Remove(record)
}

// Others is the part that cleans up after executables which are not configured in this
// process, but were in the one that launched a container.
type Others struct {
	Options
	configured []string
}

// NewOthers returns the part beside the isolators of these names.
func NewOthers(o Options, configured []string) *Others { return &Others{o, configured} }

// Prepare implements isolator.Isolator: it has nothing to add.
func (o *Others) Prepare(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
	return nil, nil
}

// Cleanup implements isolator.Isolator.
func (o *Others) Cleanup(ctx context.Context, id container.ID) error {
	recorded, err := List(o.Records(id))
	errs := []error{err}
	for _, name := range recorded {
		if !slices.Contains(o.configured, name) {
			errs = append(errs, o.cleanup(ctx, id, strings.TrimPrefix(name, Prefix)))
		}
	}
	return errors.Join(errs...)
}
