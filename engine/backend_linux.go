package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"berth/container"
	"berth/internal/atomicfile"
	"berth/provisioner/backend"
)

// madeBackends returns every backend by its name: what an earlier one has provisioned,
// only that one can destroy.
func (i *Images) madeBackends() map[string]backend.Backend {
	all := make(map[string]backend.Backend)
	for _, b := range backends {
		all[b.name] = b.make(i)
	}
	return all
}

// knownBackend checks a value of --image_provisioner_backend.
func knownBackend(name string) error {
	var names []string
	for _, b := range backends {
		names = append(names, b.name)
	}
	if name != "" && !slices.Contains(names, name) {
		return fmt.Errorf("--image_provisioner_backend: %q: %w: known are %s", name, container.ErrInvalid, strings.Join(names, ", "))
	}
	return nil
}

// defaultBackends are those that may be chosen without being asked for, in the order in which
// they are tried.
func defaultBackends() (names []string) {
	for _, b := range backends {
		if b.byDefault {
			names = append(names, b.name)
		}
	}
	return names
}

// chooseBackend has the provisioner use the backend that was asked for, or the first of
// those that may be chosen without being asked for. It works on the file systems of the
// root filesystems and of the layers: that is proven by trying, once between two boots.
func (i *Images) chooseBackend(ctx context.Context) error {
	i.choice.Lock()
	defer i.choice.Unlock()
	if i.chosen {
		return nil
	}
	name, err := i.workingBackend(ctx)
	if err == nil {
		i.Provisioner.Backend, i.chosen = name, true
	}
	return err
}

func (i *Images) workingBackend(ctx context.Context) (string, error) {
	if i.asked != "" {
		if err := i.proveBackend(ctx, i.asked); err != nil {
			return "", fmt.Errorf("--image_provisioner_backend=%s: %w; leave the flag out for a backend that works", i.asked, err)
		}
		return i.asked, nil
	}
	var reasons []error
	for _, name := range defaultBackends() {
		err := i.proveBackend(ctx, name)
		if err == nil {
			return name, nil
		}
		reasons = append(reasons, fmt.Errorf("%s: %w", name, err))
	}
	return "", fmt.Errorf("choose a backend: none works: %w", errors.Join(reasons...))
}

// proveBackend returns why a backend does not work.
func (i *Images) proveBackend(ctx context.Context, name string) error {
	proof, err := i.proof(name)
	if err != nil {
		return err
	}
	known, _ := os.ReadFile(i.Layout.Backend()) // without it the backend is tried again
	if slices.Contains(strings.Split(string(known), "\n"), proof) {
		return nil
	}
	switch err := i.probeBackend(ctx, name); {
	case inconclusive(err):
		return nil
	case err != nil:
		return err
	}
	// Another process may do the same: what is lost then is tried again.
	return atomicfile.Write(i.Layout.Backend(), append(known, proof+"\n"...), 0o600, false)
}

// proof is the line that says that a backend works on these file systems.
func (i *Images) proof(name string) (string, error) {
	var devices []any
	for _, dir := range []string{i.Layout.Provisioner().Root(), i.Layers.Dir()} {
		info, err := os.Stat(dir)
		if err != nil {
			return "", err
		}
		devices = append(devices, info.Sys().(*syscall.Stat_t).Dev)
	}
	return fmt.Sprintf("%s works on device %#x with layers on %#x", append([]any{name}, devices...)...), nil
}

// probeBackend tries a backend.
func (i *Images) probeBackend(ctx context.Context, name string) error {
	return backend.Probe(ctx, i.Provisioner.Backends[name], i.Layout.Provisioner().Root(), i.Layers.Dir())
}

// inconclusive reports whether a probe has ended for want of something that says nothing
// of the backend. Where the disk is full berth has to start nevertheless: only then can
// it remove what fills the disk.
func inconclusive(err error) bool {
	return slices.ContainsFunc([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM},
		func(want error) bool { return errors.Is(err, want) })
}
