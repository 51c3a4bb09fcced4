// Package seccomp is the isolator linux/seccomp: the system calls of a container are
// filtered, by the profile that it brings or names, or by that which the operator names, or
// by one that forbids what programs hardly need. It may ask for no filter at all.
//
// The filter is in force from the first instruction of the command on. Of berth-init it
// sees nothing but the execution, so a profile needs to name only what the command does.
package seccomp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/capability"
	"berth/internal/seccomp"
	"berth/isolator"
)

// Options are what the isolator is made of.
type Options struct {
	// Dir has the profiles that requests name; empty: there are none.
	Dir string
	// ProfileName is that of containers that say nothing; empty: seccomp.Default.
	ProfileName string
	// Bounding returns the most that a container's programs can have: some rules of profiles
	// depend on it.
	Bounding func(c *isolator.Container) (capability.Set, error)
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
	kernel   string
	standard compiler // of those that say nothing

	mu sync.Mutex
	// compiled has the programs of standard, by the capabilities that they are for: most
	// containers have the same. There are at most mostCompiled.
	compiled map[capability.Set]*seccomp.Program
}

// mostCompiled bounds what requests with ever other capabilities can have berth keep.
const mostCompiled = 64

// compiler makes the program of a profile.
type compiler func(seccomp.Target) (*seccomp.Program, error)

// New returns the isolator. ErrInvalid, ErrNotFound: the operator's profile.
func New(o Options) (*Isolator, error) {
	i := &Isolator{Options: o, standard: seccomp.CompileDefault, compiled: map[capability.Set]*seccomp.Program{}}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, err
	}
	i.kernel = strings.TrimSpace(string(release))
	if o.ProfileName == "" {
		return i, nil
	}
	named, err := i.named(o.ProfileName)
	if err != nil {
		return nil, fmt.Errorf("--seccomp_profile_name: %w", err)
	}
	i.standard = named.Compile
	return i, nil
}

// Supported reports why there can be no filters here; nil: there can.
func Supported() error {
	if !seccomp.Supported() {
		return fmt.Errorf("%w: nobody has told berth the system calls of %s", container.ErrNotSupported, runtime.GOARCH)
	}
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err != nil {
		return fmt.Errorf("%w: the kernel has no CONFIG_SECCOMP_FILTER", container.ErrNotSupported)
	}
	return nil
}

// Probe implements isolator.Prober.
func (i *Isolator) Probe(context.Context) error { return Supported() }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	program, err := i.program(c)
	if err != nil {
		return nil, fmt.Errorf("linux/seccomp: %w", err)
	}
	if program == nil {
		return nil, nil
	}
	return &isolator.LaunchInfo{Confinement: isolator.Confinement{Filter: program.Filter, FilterFlags: program.Flags}}, nil
}

// program returns that of a container; nil: none.
func (i *Isolator) program(c *isolator.Container) (*seccomp.Program, error) {
	wanted, profile, err := i.chosen(c.Config)
	if err != nil || !wanted {
		return nil, err
	}
	if err := Supported(); err != nil {
		return nil, err
	}
	set, err := i.Bounding(c)
	if err != nil {
		return nil, err
	}
	target := seccomp.Target{Arch: runtime.GOARCH, Kernel: i.kernel, Capabilities: set}
	if profile != nil {
		return profile.Compile(target)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if program := i.compiled[set]; program != nil {
		return program, nil
	}
	program, err := i.standard(target)
	if err != nil {
		return nil, err
	}
	if len(i.compiled) >= mostCompiled {
		clear(i.compiled)
	}
	i.compiled[set] = program
	return program, nil
}

// chosen reports whether a request wants a filter, and of which profile; nil: of standard.
func (i *Isolator) chosen(config *v1.ContainerConfig) (wanted bool, profile *seccomp.Profile, err error) {
	info, brought := config.GetContainerInfo().GetLinuxInfo().GetSeccomp(), config.GetSecurity().GetSeccompProfile()
	switch {
	case info == nil && brought == "":
		return true, nil, nil
	case info != nil && brought != "", info.GetUnconfined() && info.ProfileName != nil:
		return false, nil, fmt.Errorf("%w: it is one of: no filter (unconfined), a profile by its name, a profile", container.ErrInvalid)
	case brought != "":
		profile, err = seccomp.Parse([]byte(brought))
		return true, profile, err
	case info.GetUnconfined():
		return false, nil, nil
	case info.GetProfileName() == "":
		return false, nil, fmt.Errorf("%w: there is neither a name of a profile nor unconfined", container.ErrInvalid)
	}
	profile, err = i.named(info.GetProfileName())
	return true, profile, err
}

// named reads a profile of the directory. A name that leads elsewhere is none.
func (i *Isolator) named(name string) (*seccomp.Profile, error) {
	if i.Dir == "" {
		return nil, fmt.Errorf("profile %q: %w: --seccomp_config_dir says where profiles are, and is not set", name, container.ErrInvalid)
	}
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("profile %q: %w: it is a name in %s", name, container.ErrInvalid, i.Dir)
	}
	text, err := os.ReadFile(filepath.Join(i.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w: there is no such profile", container.ErrInvalid, err)
	}
	if err != nil {
		return nil, err
	}
	profile, err := seccomp.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(i.Dir, name), err)
	}
	return profile, nil
}

// Cleanup implements isolator.Isolator: a filter goes with its processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
