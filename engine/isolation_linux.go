package engine

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"berth/container"
	"berth/internal/secretdir"
	"berth/isolator"
)

// isolation returns the names of the configured isolators, and of those that come with
// them, or, where images can be root file systems, with a kind of images: what carries out
// what those say of how they are run. One has the file system: filesystem/posix if no other
// does.
func (c Config) isolation() []string {
	all := slices.Clone(c.Isolation)
	for i, name := range all {
		all[i] = cmp.Or(aliases[name], name)
	}
	if len(fileSystemsOf(all)) == 0 {
		all = append(all, "filesystem/posix")
	}
	also := func(names ...string) {
		for _, name := range names {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	also(alwaysOn)
	for _, name := range slices.Clone(all) {
		also(implied[name]...)
	}
	if slices.Contains(all, "filesystem/linux") {
		for _, provider := range c.ImageProviders {
			also(strings.ToLower(provider) + "/runtime")
		}
	}
	return all
}

// alwaysOn is the isolator that is configured without being named: a secret is never left
// out.
const alwaysOn = "environment_secret"

// secrets is who knows secrets by name; nil: nobody.
func (c Config) secrets() isolator.SecretResolver {
	if c.SecretsDir == "" {
		return nil
	}
	return secretdir.Dir(c.SecretsDir)
}

// isolates reports whether an isolator is configured, or comes with one that is.
func (c Config) isolates(name string) bool { return slices.Contains(c.isolation(), name) }

// aliases are names that Mesos has for isolators, too.
var aliases = map[string]string{"posix/disk": "disk/du"}

func fileSystemsOf(isolation []string) []string {
	return slices.DeleteFunc(slices.Clone(isolation), func(name string) bool { return !strings.HasPrefix(name, "filesystem/") })
}

// checkIsolation refuses isolators that do not go together.
func (c Config) checkIsolation() (err error) {
	all := c.isolation()
	if several := fileSystemsOf(all); len(several) > 1 {
		err = fmt.Errorf("--isolation: %w: a container has one file system, and %s are each one: leave all but one out", container.ErrInvalid, strings.Join(several, ", "))
	}
	for _, name := range all {
		own := slices.ContainsFunc(isolators, func(i tableEntry) bool { return i.name == name })
		if c.launcherName() == posixLauncher && own && !slices.Contains(onTrees, name) {
			err = errors.Join(err, fmt.Errorf("--isolation: %s: %w: it needs --launcher=linux", name, container.ErrNotSupported))
		}
		if of := needs[name]; of != nil && !slices.ContainsFunc(of, func(other string) bool { return slices.Contains(all, other) }) {
			err = errors.Join(err, fmt.Errorf("--isolation: %w: %s needs %s", container.ErrInvalid, name, strings.Join(of, " or ")))
		}
	}
	return err
}

func (c Config) checkContainerizers() error {
	if len(c.Containerizers) != 1 || c.Containerizers[0] != "mesos" {
		return fmt.Errorf("--containerizers: %q: %w: there is one, mesos", c.Containerizers, container.ErrNotSupported)
	}
	return nil
}

func (c Config) checkPrefixes() error {
	for _, dir := range c.HostPathVolumePrefixes {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("--host_path_volume_prefixes: %w: %q is not the absolute path of a directory", container.ErrInvalid, dir)
		}
	}
	return nil
}

// needsOf tells what an isolator needs of the host or of other isolators.
func needsOf(name string) string {
	for _, i := range isolators {
		if i.name == name && i.controller != "" {
			return fmt.Sprintf("the cgroup controller %q", i.controller)
		}
	}
	return strings.Join(needs[name], " or ")
}
