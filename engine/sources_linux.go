package engine

import (
	"fmt"
	"net/url"
	"strings"

	"berth/container"
	"berth/registry"
)

// dockerSources returns how registries are talked to, and the directory of archives if
// docker images come from there. ErrInvalid, ErrNotSupported: the configuration.
func (c Config) dockerSources() (talk registry.Options, archives string, err error) {
	talk = c.Registry
	if c.DockerConfig != "" {
		config, err := registry.ReadDockerConfig(c.DockerConfig)
		if err != nil {
			return talk, "", fmt.Errorf("--docker_config: %w", err)
		}
		talk.Keychain = config
	}
	dir := strings.TrimPrefix(c.DockerRegistry, "file://")
	switch {
	case c.DockerRegistry == "":
		return talk, "", nil
	case strings.HasPrefix(dir, "/"):
		return talk, dir, nil
	}
	hub, err := url.Parse(c.DockerRegistry)
	switch {
	case err != nil || hub.Host == "" || hub.User != nil:
		return talk, "", fmt.Errorf("--docker_registry: %w: it is neither http[s]://HOST[:PORT] nor /DIR nor file:///DIR", container.ErrInvalid)
	case hub.Scheme != "http" && hub.Scheme != "https":
		return talk, "", fmt.Errorf("--docker_registry: %w: the scheme %q; known are http, https and file", container.ErrNotSupported, hub.Scheme)
	}
	talk.Hub = hub
	return talk, "", nil
}
