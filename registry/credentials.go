package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"berth/container"
	"berth/image"
)

const (
	maxDockerConfig = 4 << 20
	// helperTimeout ends a credential helper that asks nobody at a terminal.
	helperTimeout = time.Minute
)

// DockerConfig has the credentials of a Docker configuration: config.json, or the older
// .dockercfg, which is what config.json has as "auths". It implements Keychain.
type DockerConfig struct {
	auths   map[string]authEntry
	store   string            // names a program docker-credential-NAME
	helpers map[string]string // by registry, before store
}

// authEntry is one registry's. No error or log may show it.
type authEntry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// ParseDockerConfig reads a configuration. The error is of class ErrInvalid, and shows
// nothing of it.
func ParseDockerConfig(text []byte) (*DockerConfig, error) {
	config, err := parseDockerConfig(text)
	if err != nil {
		return nil, fmt.Errorf("docker configuration: %w: %w", container.ErrInvalid, err)
	}
	return config, nil
}

func parseDockerConfig(text []byte) (*DockerConfig, error) {
	var members map[string]json.RawMessage
	if len(text) > maxDockerConfig {
		return nil, fmt.Errorf("it has more than %d bytes", maxDockerConfig)
	}
	if json.Unmarshal(text, &members) != nil {
		return nil, errors.New("it is not a JSON object")
	}
	config := &DockerConfig{}
	whole := members["auths"] == nil && members["credsStore"] == nil && members["credHelpers"] == nil
	for _, member := range []struct {
		name string
		into any
	}{{"credsStore", &config.store}, {"credHelpers", &config.helpers}, {"auths", &config.auths}} {
		if raw := members[member.name]; raw != nil && json.Unmarshal(raw, member.into) != nil {
			return nil, fmt.Errorf("its member %q is of the wrong type", member.name)
		}
	}
	if whole && !isOnlySettings(members) {
		if json.Unmarshal(text, &config.auths) != nil {
			return nil, errors.New(`it has neither "auths" nor entries of registries`)
		}
	}
	for registry, entry := range config.auths {
		if _, err := entry.decode(); err != nil {
			return nil, fmt.Errorf("its entry for %.100q: %w", registry, err)
		}
	}
	return config, nil
}

// isOnlySettings tells a config.json without credentials from a .dockercfg, all members of
// which are entries of registries.
func isOnlySettings(members map[string]json.RawMessage) bool {
	for name, raw := range members {
		var entry map[string]json.RawMessage
		if strings.ContainsAny(name, ".:/") || json.Unmarshal(raw, &entry) == nil && entry["auth"] != nil {
			return false
		}
	}
	return true
}

// ReadDockerConfig reads what a flag says: JSON, or file:///PATH or /PATH of a file with it.
// The error is of class ErrInvalid, or that of the file.
func ReadDockerConfig(value string) (*DockerConfig, error) {
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		return ParseDockerConfig([]byte(value))
	}
	path := strings.TrimPrefix(value, "file://")
	if !filepath.IsAbs(path) {
		// Not shown: it may be a configuration that was mistyped.
		return nil, fmt.Errorf("docker configuration: %w: it is neither a JSON object nor the absolute path of a file", container.ErrInvalid)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("docker configuration: %w", err)
	}
	config, err := ParseDockerConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

// Entries returns the credentials that are in the configuration itself. A stranger's
// configuration must not have programs of this host run.
func (c *DockerConfig) Entries() *DockerConfig { return &DockerConfig{auths: c.auths} }

// Resolve implements Keychain. A program of the configuration that fails is an error; one
// that knows no credentials is not.
func (c *DockerConfig) Resolve(ctx context.Context, registry, repository string) (Credentials, error) {
	registry = registryKey(registry)
	for name, helper := range c.helpers {
		if helper != "" && registryKey(name) == registry {
			return askHelper(ctx, helper, name)
		}
	}
	entry := c.find(registry, "/"+repository)
	if entry == nil && c.store != "" {
		return askHelper(ctx, c.store, serverOf(registry))
	}
	if entry == nil {
		return Credentials{}, nil
	}
	found, err := entry.decode()
	if err == nil && found == (Credentials{}) && c.store != "" {
		// `docker login` leaves an empty entry for what it gave to the store.
		return askHelper(ctx, c.store, serverOf(registry))
	}
	return found, err
}

// find returns the entry for a registry, or for the longest beginning of the repository's
// path, as podman writes it.
func (c *DockerConfig) find(registry, path string) *authEntry {
	var found *authEntry
	longest := -1
	for key, entry := range c.auths {
		host, scope := splitKey(key)
		within := scope == "" || path == scope || strings.HasPrefix(path, scope+"/")
		// Of several spellings of one registry the one with credentials is meant.
		better := len(scope) > longest || len(scope) == longest && *found == (authEntry{})
		if host == registry && within && better {
			found, longest = &entry, len(scope)
		}
	}
	return found
}

// splitKey reads a key of "auths": [https://]HOST[:PORT][/v1/ or /v2/ or /PATH].
func splitKey(key string) (host, scope string) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, scope, _ = strings.Cut(key, "/")
	scope = strings.Trim(scope, "/")
	if scope == "v1" || scope == "v2" {
		scope = ""
	}
	if scope != "" {
		scope = "/" + scope
	}
	return registryKey(host), scope
}

// registryKey brings HOST[:PORT] into the form in which registries are compared: all names
// of Docker Hub are one, and port 443 is that of https.
func registryKey(host string) string {
	host, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://"), "/")
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	switch host {
	case "index.docker.io", hubHost, "registry.hub.docker.com":
		return image.DefaultRegistry
	}
	return host
}

// serverOf is what credential helpers call a registry.
func serverOf(registry string) string {
	if registry == image.DefaultRegistry {
		return "https://index.docker.io/v1/"
	}
	return registry
}

// decode returns what the entry says.
func (e authEntry) decode() (Credentials, error) {
	c := Credentials{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth == "" {
		return c, nil
	}
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	user, password, found := strings.Cut(strings.TrimRight(string(decoded), "\x00"), ":")
	if err != nil || !found {
		return Credentials{}, fmt.Errorf("%w: its auth is not the base64 of USER:PASSWORD", container.ErrInvalid)
	}
	c.Username, c.Password = user, password
	return c, nil
}

// askHelper runs docker-credential-NAME, which is told the server on its standard input.
func askHelper(ctx context.Context, name, server string) (Credentials, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		return Credentials{}, fmt.Errorf("%w: a credential helper is named without a path", container.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	program := "docker-credential-" + name
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin, cmd.Stdout = strings.NewReader(server), &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return Credentials{}, fmt.Errorf("run %s: %w", program, context.Cause(ctx))
	case err != nil && strings.Contains(out.String(), "credentials not found"):
		return Credentials{}, nil
	case err != nil: // what it printed may be secret
		return Credentials{}, fmt.Errorf("run %s: %w: %w: try `echo %s | %s get`", program, container.ErrFailedPrecondition, err, server, program)
	}
	var said struct{ Username, Secret string }
	if json.Unmarshal(out.Bytes(), &said) != nil {
		return Credentials{}, fmt.Errorf("run %s: %w: its answer is not JSON with credentials", program, container.ErrInvalid)
	}
	if said.Username == "<token>" {
		return Credentials{IdentityToken: said.Secret}, nil
	}
	return Credentials{Username: said.Username, Password: said.Secret}, nil
}

// UserCredentials are those of the user: of $DOCKER_CONFIG/config.json or
// ~/.docker/config.json, or else of $REGISTRY_AUTH_FILE or the auth.json of podman. The
// file is read whenever a registry asks for credentials, as logins come and go.
func UserCredentials() Keychain { return userCredentials{} }

type userCredentials struct{}

func (userCredentials) Resolve(ctx context.Context, registry, repository string) (Credentials, error) {
	for _, path := range userConfigs() {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Credentials{}, err
		}
		config, err := ParseDockerConfig(text)
		if err != nil {
			return Credentials{}, fmt.Errorf("%s: %w", path, err)
		}
		return config.Resolve(ctx, registry, repository)
	}
	return Credentials{}, nil
}

func userConfigs() (paths []string) {
	home, _ := os.UserHomeDir()
	add := func(dir, name string) {
		if dir != "" {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	docker := os.Getenv("DOCKER_CONFIG")
	if docker == "" && home != "" {
		docker = filepath.Join(home, ".docker")
	}
	add(docker, "config.json")
	add(os.Getenv("REGISTRY_AUTH_FILE"), "")
	add(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), "/run/containers/0"), "containers/auth.json")
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	add(config, "containers/auth.json")
	return paths
}
