package appc

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"berth/container"
	"berth/internal/strictjson"
)

const (
	// MaxManifestSize bounds an image manifest. Its pathWhitelist may name every file.
	MaxManifestSize = 4 << 20
	// MaxDependencies bounds those of one image.
	MaxDependencies = 128

	imageManifest = "ImageManifest"
	maxPath       = 4095
	// What a process of Linux can have (NGROUPS_MAX), and what user ids are elsewhere in berth.
	maxGroups = 65536
	maxGID    = math.MaxInt32
)

// Manifest is an image manifest. No string of it contains a control character.
type Manifest struct {
	Kind         string       `json:"acKind"`
	Version      string       `json:"acVersion"`
	Name         string       `json:"name"`
	Labels       []Label      `json:"labels,omitempty"`
	App          *App         `json:"app,omitempty"` // nil: it is only depended on
	Dependencies []Dependency `json:"dependencies,omitempty"`
	// PathWhitelist are the paths that are left of the image and of what it depends on,
	// clean and absolute; empty: all.
	PathWhitelist []string `json:"pathWhitelist,omitempty"`
	Annotations   []Label  `json:"annotations,omitempty"`
}

// App is how an image wants to be run.
type App struct {
	Exec []string `json:"exec,omitempty"`
	// User and Group are a name, a number, or a path in the image whose owner is meant.
	User              string     `json:"user,omitempty"`
	Group             string     `json:"group,omitempty"`
	SupplementaryGIDs []uint32   `json:"supplementaryGIDs,omitempty"`
	WorkingDirectory  string     `json:"workingDirectory,omitempty"`
	Environment       []Variable `json:"environment,omitempty"`
}

// Variable is one of an environment.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Dependency is an image that another one stands on.
type Dependency struct {
	Name   string  `json:"imageName"`
	ID     ID      `json:"imageID,omitempty"`
	Labels []Label `json:"labels,omitempty"`
	// Size is how many bytes the file of the image has; 0: that is not known.
	Size int64 `json:"size,omitempty"`
}

// Request is how to ask for the image.
func (d Dependency) Request() (Request, error) { return NewRequest(d.Name, d.Labels, d.ID) }

// ParseManifest reads an image manifest. The error is of class ErrInvalid, or
// ErrNotSupported for another kind of document.
func ParseManifest(body []byte) (*Manifest, error) {
	var m Manifest
	err := strictjson.Decode(body, MaxManifestSize, &m)
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return nil, fmt.Errorf("parse image manifest: %w", err)
	}
	return &m, nil
}

func (m *Manifest) check() error {
	if m.Kind != imageManifest {
		return fmt.Errorf("%w: its acKind is %s, not %q", container.ErrNotSupported, quote(m.Kind), imageManifest)
	}
	if err := checkVersion(m.Version); err != nil {
		return err
	}
	if err := CheckIdentifier(m.Name); err != nil {
		return err
	}
	if err := checkLabels(m.Labels); err != nil {
		return err
	}
	for _, l := range m.Labels {
		if !isText(l.Value) {
			return fmt.Errorf("%w: the label %s has a control character or is not UTF-8", container.ErrInvalid, l.Name)
		}
	}
	if err := m.checkDependencies(); err != nil {
		return err
	}
	if err := m.cleanWhitelist(); err != nil {
		return err
	}
	if m.App == nil {
		return nil
	}
	return m.App.check()
}

// checkVersion accepts a semantic version, as far as it matters: three numbers and what
// may follow them.
func checkVersion(s string) error {
	core, _, _ := strings.Cut(s, "+")
	core, _, _ = strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	bad := len(parts) != 3 || len(s) > 64 || slices.ContainsFunc(parts, func(p string) bool {
		return p == "" || strings.Trim(p, "0123456789") != ""
	})
	if bad {
		return fmt.Errorf("%w: its acVersion %s is no version such as 0.8.11", container.ErrInvalid, quote(s))
	}
	return nil
}

func (m *Manifest) checkDependencies() error {
	if len(m.Dependencies) > MaxDependencies {
		return fmt.Errorf("%w: it has %d dependencies, at most %d are allowed", container.ErrInvalid, len(m.Dependencies), MaxDependencies)
	}
	for _, d := range m.Dependencies {
		if _, err := d.Request(); err != nil {
			return fmt.Errorf("dependency: %w", err)
		}
		if d.Size < 0 || d.Size > math.MaxInt64/2 {
			return fmt.Errorf("dependency %s: %w: a size of %d bytes", d.Name, container.ErrInvalid, d.Size)
		}
	}
	return nil
}

func (m *Manifest) cleanWhitelist() error {
	for i, p := range m.PathWhitelist {
		if !path.IsAbs(p) || len(p) > maxPath || strings.ContainsRune(p, 0) {
			return fmt.Errorf("%w: the path %s of the pathWhitelist is not absolute, too long or contains a NUL", container.ErrInvalid, quote(p))
		}
		m.PathWhitelist[i] = path.Clean(p)
	}
	return nil
}

func (a *App) check() error {
	for _, s := range slices.Concat(a.Exec, []string{a.User, a.Group, a.WorkingDirectory}) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("app: %w: %s contains a NUL", container.ErrInvalid, quote(s))
		}
	}
	if len(a.Exec) > 0 && a.Exec[0] == "" {
		return fmt.Errorf("app: %w: the program in exec is empty", container.ErrInvalid)
	}
	for _, who := range []string{a.User, a.Group} {
		// A colon would turn a user into a user and a group.
		if strings.Contains(who, ":") && !strings.HasPrefix(who, "/") || !isText(who) {
			return fmt.Errorf("app: %w: %s is neither a name nor a number nor a path", container.ErrInvalid, quote(who))
		}
	}
	if len(a.SupplementaryGIDs) > maxGroups || slices.ContainsFunc(a.SupplementaryGIDs, func(gid uint32) bool { return gid > maxGID }) {
		return fmt.Errorf("app: %w: the supplementaryGIDs are more than %d, or one is more than %d", container.ErrInvalid, maxGroups, maxGID)
	}
	if a.WorkingDirectory != "" && !path.IsAbs(a.WorkingDirectory) {
		return fmt.Errorf("app: %w: the working directory %s is not absolute", container.ErrInvalid, quote(a.WorkingDirectory))
	}
	for _, v := range a.Environment {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || strings.ContainsRune(v.Value, 0) {
			return fmt.Errorf("app: %w: the environment variable %s is empty, has a '=' in its name or a NUL", container.ErrInvalid, quote(v.Name))
		}
	}
	return nil
}

// Env is the environment as NAME=VALUE.
func (a *App) Env() (env []string) {
	for _, v := range a.Environment {
		env = append(env, v.Name+"="+v.Value)
	}
	return env
}
