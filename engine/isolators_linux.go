package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"berth/container"
	"berth/isolator"
	"berth/isolator/external"
	"berth/isolator/network/cni"
	"berth/state"
)

// makeIsolators makes the configured isolators: those of the table in its order, then those
// of Config.Isolators, then the executables.
func makeIsolators(ctx context.Context, p parts) (chosen []NamedIsolator, err error) {
	wanted := p.config.isolation()
	if err := twice("--isolation", wanted); err != nil {
		return nil, err
	}
	if err := checkNamed(p.config.Isolators); err != nil {
		return nil, err
	}
	take := func(name string) bool {
		at := slices.Index(wanted, name)
		if at >= 0 {
			wanted = slices.Delete(wanted, at, at+1)
		}
		return at >= 0
	}
	var errs []error
	var without, missing []string
	for _, i := range isolators {
		switch {
		case !take(i.name): // it is not configured
		case !p.hasController(i.controller):
			without, missing = append(without, i.name), append(missing, i.controller)
		default:
			chosen = append(chosen, NamedIsolator{i.name, i.make(p)})
		}
	}
	if len(without) > 0 {
		errs = append(errs, fmt.Errorf("--isolation: %s: the cgroup controller %q is not mounted: %w; mount it or leave the isolator out",
			strings.Join(without, ", "), strings.Join(missing, ", "), container.ErrNotSupported))
	}
	for _, i := range p.config.Isolators {
		if take(i.Name) {
			chosen = append(chosen, i)
		}
	}
	for _, name := range slices.Clone(wanted) {
		if strings.HasPrefix(name, external.Prefix) && take(name) {
			made, err := external.New(ctx, name, p.config.external(p.images.Layout))
			chosen, errs = append(chosen, NamedIsolator{name, made}), append(errs, err)
		}
	}
	if len(wanted) > 0 {
		errs = append(errs, fmt.Errorf("--isolation: %w: unknown isolator %q: `berth info` lists those that there are", container.ErrInvalid, wanted))
	}
	return chosen, errors.Join(errs...)
}

// leftovers are what cleans up after isolators that do not take part, but did when a
// container was launched.
func (p parts) leftovers() []isolator.Isolator {
	all := []isolator.Isolator{external.NewOthers(p.config.external(p.images.Layout), p.config.isolation())}
	if !p.config.isolates("network/cni") {
		all = append(all, cni.NewLeftovers(p.networks()))
	}
	return all
}

func (p parts) hasController(name string) bool {
	_, ok := p.cgroups.Version(name)
	return ok || name == ""
}

func twice(where string, names []string) error {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%s: %w: %q is there twice", where, container.ErrInvalid, name)
		}
	}
	return nil
}

// isIsolatorName reports whether a name is GROUP/NAME.
func isIsolatorName(s string) bool {
	group, name, _ := strings.Cut(s, "/")
	return group != "" && name != "" && strings.Trim(group+name, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// checkNamed refuses isolators whose names are not their own.
func checkNamed(named []NamedIsolator) error {
	var names []string
	for _, i := range named {
		switch {
		case !isIsolatorName(i.Name) || strings.HasPrefix(i.Name, external.Prefix):
			return fmt.Errorf("isolator %q of the configuration: %w: it is to have a name GROUP/NAME of lower case letters, digits and _, and another group than external", i.Name, container.ErrInvalid)
		case slices.ContainsFunc(isolators, func(own tableEntry) bool { return own.name == i.Name }):
			return fmt.Errorf("isolator %q of the configuration: %w: berth has one of that name", i.Name, container.ErrExists)
		case i.Isolator == nil:
			return fmt.Errorf("isolator %q of the configuration: %w: there is only the name", i.Name, container.ErrInvalid)
		}
		names = append(names, i.Name)
	}
	return twice("isolators of the configuration", names)
}

func (c Config) external(layout state.Layout) external.Options {
	return external.Options{
		Dir: c.IsolatorDir, SandboxDirectory: c.SandboxDirectory, Log: c.log(),
		Records: func(id container.ID) string { return layout.Container(id).External() },
	}
}

// probe tells why an isolator would not work here; nil: it does.
func (p parts) probe(ctx context.Context, own tableEntry) error {
	if !p.hasController(own.controller) {
		return fmt.Errorf("the cgroup controller %q is not mounted", own.controller)
	}
	if own.controller != "" {
		if err := p.config.checkCgroupsRootFor(p.cgroups, own.controller); err != nil {
			return err
		}
	}
	if prober, ok := own.make(p).(isolator.Prober); ok {
		return prober.Probe(ctx)
	}
	return nil
}

// isolatorAbilities tells of berth's own isolators, those of the configuration, what
// --isolation names in vain, and every executable, which is asked.
func (p parts) isolatorAbilities(ctx context.Context) (abilities []Ability, err error) {
	if err := checkNamed(p.config.Isolators); err != nil {
		return nil, err
	}
	add := func(name string, err error) {
		a := Ability{Name: name, Default: p.config.isolates(name), Works: err == nil}
		if err != nil {
			a.Reason = err.Error()
		}
		abilities = append(abilities, a)
	}
	for _, own := range isolators {
		add(own.name, p.probe(ctx, own))
	}
	for _, named := range p.config.Isolators {
		add(named.Name, nil)
	}
	names, err := external.List(p.config.IsolatorDir)
	if err != nil {
		return nil, fmt.Errorf("--isolator_dir: %w", err)
	}
	// What is configured and is not there has a line, too.
	for _, name := range p.config.isolation() {
		switch known := func(a Ability) bool { return a.Name == name }; {
		case slices.ContainsFunc(abilities, known) || slices.Contains(names, name):
		case strings.HasPrefix(name, external.Prefix):
			names = append(names, name)
		default:
			add(name, errors.New("there is no such isolator"))
		}
	}
	for _, name := range names {
		_, err := external.New(ctx, name, p.config.external(p.images.Layout))
		add(name, err)
	}
	return abilities, nil
}
