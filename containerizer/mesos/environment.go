//go:build linux

package mesos

import (
	"fmt"
	"slices"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is what the command finds: what isolators (and with them the image) give,
// overridden by the request, completed by PATH and HOME. Nothing of berth's own
// environment is in it.
func environment(config *v1.ContainerConfig, given []string, home string) ([]string, error) {
	var env environ
	env.set("PATH", defaultPath)
	if config.GetContainerInfo().GetTtyInfo() != nil {
		env.set("TERM", "xterm") // what Docker and podman say; every image knows it
	}
	if home != "" {
		env.set("HOME", home)
	}
	for _, entry := range given {
		if name, value, ok := strings.Cut(entry, "="); ok && name != "" {
			env.set(name, value)
		}
	}
	for _, v := range config.GetCommandInfo().GetEnvironment().GetVariables() {
		if v.GetType() == v1.Environment_Variable_SECRET {
			continue // see withSecrets
		}
		if v.GetName() == "" || strings.ContainsAny(v.GetName(), "=\x00") || strings.Contains(v.GetValue(), "\x00") {
			return nil, fmt.Errorf("environment variable %q: %w: a name is not empty and has no '=', and neither name nor value has a NUL", v.GetName(), container.ErrInvalid)
		}
		env.set(v.GetName(), v.GetValue())
	}
	return env, nil
}

// withSecrets adds the variables that are secrets. ErrNotSupported: no isolator knows one.
func withSecrets(env []string, config *v1.ContainerConfig, secrets []isolator.SecretVariable) ([]string, error) {
	all := environ(slices.Clone(env))
	for _, v := range config.GetCommandInfo().GetEnvironment().GetVariables() {
		if v.GetType() != v1.Environment_Variable_SECRET {
			continue
		}
		at := slices.IndexFunc(secrets, func(s isolator.SecretVariable) bool { return s.Name == v.GetName() })
		if at < 0 {
			return nil, fmt.Errorf("environment variable %s: %w: a secret in the environment needs the isolator environment_secret", v.GetName(), container.ErrNotSupported)
		}
		if v.GetName() == "" || strings.ContainsAny(v.GetName(), "=\x00") {
			return nil, fmt.Errorf("environment variable %q: %w: a name is not empty and has no '=' and no NUL", v.GetName(), container.ErrInvalid)
		}
		all.set(v.GetName(), secrets[at].Value)
	}
	return all, nil
}

// withoutSecrets is what a record may have of an environment.
func withoutSecrets(env []string, secrets []isolator.SecretVariable) []string {
	return slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.ContainsFunc(secrets, func(s isolator.SecretVariable) bool { return s.Name == name })
	})
}

// environ is an environment in the order in which names came first.
type environ []string

func (e *environ) set(name, value string) {
	entry := name + "=" + value
	for i, old := range *e {
		if strings.HasPrefix(old, name+"=") {
			(*e)[i] = entry
			return
		}
	}
	*e = append(*e, entry)
}
