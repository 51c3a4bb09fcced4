package engine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/container"
	"berth/internal/testrig"
)

func config(t *testing.T) Config {
	t.Helper()
	testrig.RequireRoot(t)
	c := DefaultConfig()
	dir := testrig.TempDir(t)
	c.WorkDir, c.RuntimeDir = filepath.Join(dir, "work"), filepath.Join(dir, "run")
	return c
}

func TestWhatIsConfiguredWronglyIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		words  string
	}{
		"unknown isolator":    {func(c *Config) { c.Isolation = append(c.Isolation, "no/such") }, "no/such"},
		"an isolator twice":   {func(c *Config) { c.Isolation = append(c.Isolation, "cgroups/mem") }, "cgroups/mem"},
		"unknown backend":     {func(c *Config) { c.ImageProvisionerBackend = "zfs" }, "overlay, copy, bind"},
		"unknown provider":    {func(c *Config) { c.ImageProviders = []string{"rpm"} }, "rpm"},
		"no init program":     {func(c *Config) { c.LauncherDir = c.WorkDir }, "--launcher_dir"},
		"work_dir under file": {func(c *Config) { c.WorkDir = "/etc/passwd/work" }, "--work_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			config := config(t)
			config.LauncherDir = testrig.TempDir(t)
			if err := os.WriteFile(filepath.Join(config.LauncherDir, "berth-init"), nil, 0o755); err != nil {
				t.Fatal(err)
			}
			c.change(&config)
			_, err := Open(t.Context(), config)
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, want an error that names %q", err, c.words)
			}
		})
	}
}

func TestIsolatorsAreInTheOrderOfTheTable(t *testing.T) {
	var names []string
	for _, i := range isolators {
		names = append(names, i.name)
	}
	if names[0] != "filesystem/linux" {
		t.Errorf("%s comes first: the others mount into what filesystem/linux makes", names[0])
	}
	for _, name := range DefaultConfig().Isolation {
		if !slices.Contains(names, name) {
			t.Errorf("the default isolator %s is not in the table", name)
		}
	}
}

func TestTheDefaultBackendIsFoundByTryingAndRemembered(t *testing.T) {
	c := config(t)
	images, err := OpenImages(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	found := images.Provisioner.Backend
	if found != "overlay" && found != "copy" {
		t.Errorf("the default is %q", found)
	}
	record := images.Layout.Backend()
	data, err := os.ReadFile(record)
	if err != nil || !strings.HasPrefix(string(data), found+" ") {
		t.Errorf("remembered %q, %v", data, err)
	}
	// What is remembered for this file system counts.
	other := strings.Replace(string(data), found, "bind", 1)
	if err := os.WriteFile(record, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if images, err = OpenImages(t.Context(), c); err != nil || images.Provisioner.Backend != "bind" {
		t.Errorf("with a record of bind: %v, %v", images.Provisioner.Backend, err)
	}
	// For another one it does not.
	if err := os.WriteFile(record, []byte("bind on device 0x1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if images, err = OpenImages(t.Context(), c); err != nil || images.Provisioner.Backend != found {
		t.Errorf("with a record for another file system: %v, %v", images.Provisioner.Backend, err)
	}
}

func TestInspectTriesEveryBackend(t *testing.T) {
	info, err := Inspect(t.Context(), config(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Backends) != len(backends) || len(info.Isolators) != len(isolators) {
		t.Errorf("found %+v", info)
	}
	for _, a := range append(info.Backends, info.Isolators...) {
		if a.Works == (a.Reason != "") {
			t.Errorf("%s works: %v, for the reason %q", a.Name, a.Works, a.Reason)
		}
	}
}

func TestAProvisionThatFailsLeavesNoRecord(t *testing.T) {
	c := config(t)
	c.LauncherDir = testrig.TempDir(t)
	if err := os.WriteFile(filepath.Join(c.LauncherDir, "berth-init"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	id, err := container.ParseID("mine")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Provision(t.Context(), id, nil); err == nil {
		t.Error("provisioned no image")
	}
	if destroyed, err := e.Destroy(t.Context(), id); destroyed || err != nil {
		t.Errorf("there was something to destroy: %v, %v", destroyed, err)
	}
	if _, err := e.Images.Remove(t.Context(), nil); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("remove no image: %v", err)
	}
}
