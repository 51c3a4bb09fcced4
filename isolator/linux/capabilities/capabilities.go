// Package capabilities is the isolator linux/capabilities: a container has those
// privileges of root that it asks for, or that the operator gives to all, or else those
// that most programs need; root in it included. SecurityOptions.no_new_privileges is its
// matter, too.
package capabilities

import (
	"context"
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/capability"
	"berth/isolator"
)

// Default is what a container has of which nothing is said: Docker's and podman's choice,
// with which installing packages, serving on low ports and changing the user work.
var Default = capability.Of("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
	"NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE")

// Options are what the isolator is made of.
type Options struct {
	// Effective is what containers have that ask for nothing, Bounding the most that any can
	// have. nil: nothing is said.
	Effective, Bounding *v1.CapabilityInfo
	// Held is what this process has itself: no container has more.
	Held capability.Set
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	effective, bounding *capability.Set
	held                capability.Set
}

// New returns the isolator. ErrInvalid: the operator's sets do not go together.
func New(o Options) (*Isolator, error) {
	i := &Isolator{held: o.Held}
	var err error
	if i.effective, err = setOf(o.Effective); err != nil {
		return nil, fmt.Errorf("--effective_capabilities: %w", err)
	}
	if i.bounding, err = setOf(o.Bounding); err != nil {
		return nil, fmt.Errorf("--bounding_capabilities: %w", err)
	}
	if i.effective != nil && i.bounding != nil && !i.bounding.Has(*i.effective) {
		return nil, fmt.Errorf("--effective_capabilities: %w: %s is not in --bounding_capabilities", container.ErrInvalid, *i.effective&^*i.bounding)
	}
	return i, nil
}

// setOf reads a message; nil stays nil.
func setOf(info *v1.CapabilityInfo) (*capability.Set, error) {
	if info == nil {
		return nil, nil
	}
	var set capability.Set
	for _, number := range info.GetCapabilities() {
		one, err := capability.Numbered(int(number) - 1000)
		if err != nil {
			return nil, err
		}
		set |= one
	}
	return &set, nil
}

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	sets, err := i.Of(c)
	if err != nil {
		return nil, err
	}
	return &isolator.LaunchInfo{Confinement: isolator.Confinement{
		Capabilities: sets, NoNewPrivileges: c.Config.GetSecurity().GetNoNewPrivileges(),
	}}, nil
}

// Of returns what a container has. ErrInvalid: the request contradicts itself or the
// operator. ErrNotSupported: this process lacks what is asked for.
func (i *Isolator) Of(c *isolator.Container) (*isolator.Capabilities, error) {
	sets, err := i.of(c)
	if err != nil {
		return nil, fmt.Errorf("linux/capabilities: %w", err)
	}
	return sets, nil
}

func (i *Isolator) of(c *isolator.Container) (*isolator.Capabilities, error) {
	effective, bounding, err := i.requested(c.Config.GetContainerInfo().GetLinuxInfo())
	if err != nil {
		return nil, err
	}
	sets := &isolator.Capabilities{}
	switch {
	case bounding != nil:
		sets.Bounding = *bounding
	case effective != nil && i.bounding != nil:
		sets.Bounding = i.most()
	case effective != nil:
		sets.Bounding = *effective
	default:
		sets.Bounding = Default & i.most()
	}
	sets.Root = sets.Bounding
	if effective != nil {
		sets.Root, sets.Others = *effective, *effective
	}
	if err := i.change(sets, c.Config.GetSecurity()); err != nil {
		return nil, err
	}
	return sets, i.check(sets)
}

// requested returns what the request says, or else, of the effective set, the operator.
func (i *Isolator) requested(linux *v1.LinuxInfo) (effective, bounding *capability.Set, err error) {
	old := linux.GetCapabilityInfo()
	asked := linux.GetEffectiveCapabilities()
	if old != nil && asked != nil {
		return nil, nil, fmt.Errorf("%w: only one of capability_info and effective_capabilities is allowed", container.ErrInvalid)
	}
	if asked == nil {
		asked = old
	}
	if effective, err = setOf(asked); err != nil {
		return nil, nil, err
	}
	if bounding, err = setOf(linux.GetBoundingCapabilities()); err != nil {
		return nil, nil, err
	}
	if effective == nil {
		effective = i.effective
	}
	return effective, bounding, nil
}

// change adds to sets and drops from them.
func (i *Isolator) change(sets *isolator.Capabilities, by *v1.SecurityOptions) error {
	added, addsAll, err := parse(by.GetAddCapabilities())
	if err != nil {
		return err
	}
	dropped, dropsAll, err := parse(by.GetDropCapabilities())
	if err != nil {
		return err
	}
	if both := added & dropped; both != 0 {
		return fmt.Errorf("%w: %s is added and dropped", container.ErrInvalid, both)
	}
	if addsAll && dropsAll {
		return fmt.Errorf("%w: ALL is added and dropped", container.ErrInvalid)
	}
	if addsAll {
		added |= i.most() &^ dropped
	}
	if dropsAll {
		dropped = capability.All &^ added
	}
	for _, set := range []*capability.Set{&sets.Bounding, &sets.Root, &sets.Others} {
		*set = *set&^dropped | added
	}
	return nil
}

// most is what any container may have.
func (i *Isolator) most() capability.Set {
	if i.bounding != nil {
		return *i.bounding & i.held
	}
	return i.held
}

// parse reads names; ALL counts apart from the others.
func parse(names []string) (set capability.Set, all bool, err error) {
	for _, name := range names {
		one, err := capability.Parse(name)
		if err != nil {
			return 0, false, err
		}
		if one == capability.All {
			all = true
			continue
		}
		set |= one
	}
	return set, all, nil
}

func (i *Isolator) check(sets *isolator.Capabilities) error {
	switch {
	case i.bounding != nil && !i.bounding.Has(sets.Bounding):
		return fmt.Errorf("%w: %s is more than --bounding_capabilities allows, which is %s", container.ErrInvalid, sets.Bounding&^*i.bounding, *i.bounding)
	case !sets.Bounding.Has(sets.Root):
		return fmt.Errorf("%w: the effective capabilities have %s, which the bounding ones have not", container.ErrInvalid, sets.Root&^sets.Bounding)
	case !i.held.Has(sets.Bounding):
		return fmt.Errorf("%w: berth itself does not have %s, so it cannot give it to a container", container.ErrNotSupported, sets.Bounding&^i.held)
	}
	return nil
}

// Cleanup implements isolator.Isolator: capabilities go with their processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
