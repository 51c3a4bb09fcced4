package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"berth/container"
	"berth/image/appc"
	"berth/internal/strictjson"
)

// MaxConfigSize bounds an image configuration.
const MaxConfigSize = 4 << 20

// Config is an image configuration: how the image wants to be run, and what its
// layers are once they are uncompressed. History and time of creation are not kept.
type Config struct {
	// Platform is what the image was made for, as it says; old images leave out parts.
	Platform Platform
	Run      RunConfig
	// DiffIDs are the digests of the uncompressed layers, base first. Whether they
	// fit the layers of the manifest is for the store to check.
	DiffIDs []Digest
	// Appc is the manifest of an Appc image, nil of any other. It is no part of the
	// document, and what Run says comes from it.
	Appc *appc.Manifest
}

// RunConfig is what a container of an image gets unless its user says otherwise.
// No string contains a NUL, which would end it early in the kernel.
type RunConfig struct {
	User       string // USER[:GROUP], names or numbers
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	Labels     map[string]string
	StopSignal string // "SIGTERM", "15"
	// Volumes are paths in the image, ExposedPorts are PORT[/PROTOCOL]; both sorted.
	Volumes      []string
	ExposedPorts []string
}

type configJSON struct {
	Platform
	Run    *runJSON    `json:"config,omitempty"`
	RootFS *rootFSJSON `json:"rootfs,omitempty"`
}

type runJSON struct {
	User         string            `json:"User,omitempty"`
	Env          []string          `json:"Env,omitempty"`
	Entrypoint   []string          `json:"Entrypoint,omitempty"`
	Cmd          []string          `json:"Cmd,omitempty"`
	WorkingDir   string            `json:"WorkingDir,omitempty"`
	Labels       map[string]string `json:"Labels,omitempty"`
	StopSignal   string            `json:"StopSignal,omitempty"`
	Volumes      setJSON           `json:"Volumes,omitempty"`
	ExposedPorts setJSON           `json:"ExposedPorts,omitempty"`
}

// setJSON is a set as the image-spec has it: an object whose values say nothing.
type setJSON map[string]json.RawMessage

type rootFSJSON struct {
	Type    string   `json:"type"`
	DiffIDs []Digest `json:"diff_ids"`
}

// rootFSLayers is the only type of rootfs that the image-spec knows.
const rootFSLayers = "layers"

// ParseConfig reads an image configuration, OCI or Docker. Members may be missing
// or null, "config" included; of those that are used the type must be right, the
// others are not looked at. The error is of class ErrInvalid, or ErrNotSupported for
// digests other than sha256.
func ParseConfig(body []byte) (*Config, error) {
	var wire configJSON
	if err := strictjson.Decode(body, MaxConfigSize, &wire); err != nil {
		return nil, fmt.Errorf("parse image configuration: %w", err)
	}
	config, err := wire.parse()
	if err != nil {
		return nil, fmt.Errorf("parse image configuration: %w", err)
	}
	return config, nil
}

func (w *configJSON) parse() (*Config, error) {
	config := &Config{Platform: w.Platform}
	if err := config.Platform.check(); err != nil {
		return nil, err
	}
	if w.RootFS != nil {
		if err := w.RootFS.check(); err != nil {
			return nil, fmt.Errorf("rootfs: %w", err)
		}
		config.DiffIDs = w.RootFS.DiffIDs
	}
	if w.Run != nil {
		config.Run = w.Run.parse()
	}
	return config, config.Run.check()
}

func (r *rootFSJSON) check() error {
	switch {
	case r.Type != "" && r.Type != rootFSLayers:
		return fmt.Errorf("%w: its type is %s, not %q", container.ErrInvalid, quote(r.Type), rootFSLayers)
	case len(r.DiffIDs) > MaxLayers:
		return fmt.Errorf("%w: it has %d diff_ids, at most %d are allowed", container.ErrInvalid, len(r.DiffIDs), MaxLayers)
	case slices.Contains(r.DiffIDs, ""):
		return fmt.Errorf("%w: one of its diff_ids is empty", container.ErrInvalid)
	}
	return nil
}

func (r *runJSON) parse() RunConfig {
	return RunConfig{
		User:         r.User,
		Env:          r.Env,
		Entrypoint:   r.Entrypoint,
		Cmd:          r.Cmd,
		WorkingDir:   r.WorkingDir,
		Labels:       r.Labels,
		StopSignal:   r.StopSignal,
		Volumes:      slices.Sorted(maps.Keys(r.Volumes)),
		ExposedPorts: slices.Sorted(maps.Keys(r.ExposedPorts)),
	}
}

func (r RunConfig) check() error {
	members := []struct {
		name   string
		values []string
	}{
		{"User", []string{r.User}},
		{"Env", r.Env},
		{"Entrypoint", r.Entrypoint},
		{"Cmd", r.Cmd},
		{"WorkingDir", []string{r.WorkingDir}},
		{"StopSignal", []string{r.StopSignal}},
		{"Volumes", r.Volumes},
		{"ExposedPorts", r.ExposedPorts},
	}
	for _, member := range members {
		if slices.ContainsFunc(member.values, hasNUL) {
			return fmt.Errorf("config: %w: %s contains a NUL", container.ErrInvalid, member.name)
		}
	}
	return nil
}

func hasNUL(s string) bool { return strings.ContainsRune(s, 0) }

// MarshalJSON prints a configuration that ParseConfig reads back as the same Config.
func (c *Config) MarshalJSON() ([]byte, error) {
	return json.Marshal(configJSON{
		Platform: c.Platform,
		Run: &runJSON{
			User:         c.Run.User,
			Env:          c.Run.Env,
			Entrypoint:   c.Run.Entrypoint,
			Cmd:          c.Run.Cmd,
			WorkingDir:   c.Run.WorkingDir,
			Labels:       c.Run.Labels,
			StopSignal:   c.Run.StopSignal,
			Volumes:      setOf(c.Run.Volumes),
			ExposedPorts: setOf(c.Run.ExposedPorts),
		},
		RootFS: &rootFSJSON{Type: rootFSLayers, DiffIDs: c.DiffIDs},
	})
}

func setOf(keys []string) setJSON {
	set := setJSON{}
	for _, key := range keys {
		set[key] = json.RawMessage("{}")
	}
	return set
}
