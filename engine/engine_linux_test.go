package engine

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/disk"
	"berth/internal/testrig"
)

func config(t *testing.T) Config {
	t.Helper()
	testrig.RequireRoot(t)
	c := DefaultConfig()
	dir := testrig.TempDir(t)
	c.WorkDir, c.RuntimeDir, c.LauncherDir = filepath.Join(dir, "work"), filepath.Join(dir, "run"), filepath.Join(dir, "bin")
	if err := os.Mkdir(c.LauncherDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.LauncherDir, "berth-init"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatIsConfiguredWronglyIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		words  string
	}{
		"unknown isolator":                 {func(c *Config) { c.Isolation = append(c.Isolation, "no/such") }, "no/such"},
		"an isolator twice":                {func(c *Config) { c.Isolation = append(c.Isolation, "cgroups/mem") }, "cgroups/mem"},
		"two file systems":                 {func(c *Config) { c.Isolation = append(c.Isolation, "filesystem/posix") }, "filesystem/linux, filesystem/posix"},
		"volumes without mounts":           {func(c *Config) { c.Isolation = []string{"volume/image"} }, "volume/image needs filesystem/linux or filesystem/shared"},
		"a prefix that is relative":        {func(c *Config) { c.HostPathVolumePrefixes = []string{"safe"} }, "--host_path_volume_prefixes"},
		"no default container":             {func(c *Config) { c.DefaultContainerInfo = "/no/such/file" }, "--default_container_info"},
		"a default container that is none": {func(c *Config) { c.DefaultContainerInfo = `{"volumes": 1}` }, "--default_container_info"},
		"a default container of docker":    {func(c *Config) { c.DefaultContainerInfo = `{"type": "DOCKER"}` }, "MESOS"},
		"a default volume that climbs": {func(c *Config) {
			c.DefaultContainerInfo = `{"type": "MESOS", "volumes": [{"container_path": "../v", "host_path": "v", "mode": "RW"}]}`
		}, `".."`},
		"unknown backend":     {func(c *Config) { c.ImageProvisionerBackend = "zfs" }, "erofs, overlay, aufs, copy, bind"},
		"unknown provider":    {func(c *Config) { c.ImageProviders = []string{"rpm"} }, "rpm"},
		"no init program":     {func(c *Config) { c.LauncherDir = c.WorkDir }, "--launcher_dir"},
		"work_dir under file": {func(c *Config) { c.WorkDir = "/etc/passwd/work" }, "--work_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			config := config(t)
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

// openEngine opens an engine, and returns the backend that provisions.
func openEngine(t *testing.T, c Config) (e *Engine, backend string) {
	t.Helper()
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e, e.Images.Provisioner.Backend
}

func TestTheBackendIsFoundByTryingAndRemembered(t *testing.T) {
	c := config(t)
	e, found := openEngine(t, c)
	if found != "erofs" && found != "overlay" && found != "copy" {
		t.Errorf("the default is %q", found)
	}
	record := e.Layout.Backend()
	remembered := func() string {
		t.Helper()
		data, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := remembered()
	if !strings.HasPrefix(first, found+" works on device ") {
		t.Errorf("remembered %q", first)
	}
	// Each backend is remembered for itself.
	c.ImageProvisionerBackend = "bind"
	if _, backend := openEngine(t, c); backend != "bind" {
		t.Errorf("asked for bind, got %s", backend)
	}
	if both := remembered(); both != first+strings.Replace(first, found, "bind", 1) {
		t.Errorf("remembered %q", both)
	}

	// What is remembered for these file systems counts, and nothing is tried.
	tried := false
	restore := disk.Intercept(func(s disk.Step) error {
		tried = tried || strings.Contains(s.Path, ".probe")
		return nil
	})
	openEngine(t, c)
	restore()
	if tried {
		t.Error("a backend that is known to work was tried again")
	}
	// For others it does not.
	if err := os.WriteFile(record, []byte("bind works on device 0x1 with layers on 0x1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	openEngine(t, c)
	if again := remembered(); strings.Count(again, "\n") != 2 {
		t.Errorf("with a record for other file systems remembered %q", again)
	}
}

// fail lets a system call of the probes fail.
func fail(t *testing.T, op string, err error) {
	t.Helper()
	t.Cleanup(disk.Intercept(func(s disk.Step) error {
		if s.Op == op && (s.Path == "" || strings.Contains(s.Path, ".probe")) {
			return err
		}
		return nil
	}))
}

func TestABackendThatDoesNotWorkIsNotChosen(t *testing.T) {
	c := config(t)
	fail(t, "mount", syscall.EINVAL)
	if _, backend := openEngine(t, c); backend != "copy" {
		t.Errorf("without mounts the default is %s", backend)
	}
	c.ImageProvisionerBackend = "overlay"
	_, err := Open(t.Context(), c)
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "--image_provisioner_backend=overlay: ") {
		t.Errorf("asked for one that does not work: %v", err)
	}
}

// Only a berth that starts can remove what fills a disk.
func TestAFullDiskSaysNothingOfABackend(t *testing.T) {
	for _, asked := range []string{"", "erofs", "overlay", "copy"} {
		t.Run("asked for "+asked, func(t *testing.T) {
			c := config(t)
			c.ImageProvisionerBackend = asked
			fail(t, "mkdir", syscall.ENOSPC)
			e, backend := openEngine(t, c)
			if backend != cmp.Or(asked, "erofs") {
				t.Errorf("chose %s", backend)
			}
			if data, err := os.ReadFile(e.Layout.Backend()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("remembered %q, %v", data, err)
			}
		})
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
	e, _ := openEngine(t, config(t))
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
}

func TestFilesystemPosixIsThereWhenNoOtherIs(t *testing.T) {
	c := DefaultConfig()
	if c.isolates("filesystem/posix") || !c.isolates("volume/secret") {
		t.Errorf("by default: %q", c.isolation())
	}
	c.Isolation = []string{"namespaces/pid"}
	if !c.isolates("filesystem/posix") || c.isolates("volume/host_path") {
		t.Errorf("for namespaces/pid: %q", c.isolation())
	}
	c.Isolation = []string{"filesystem/shared"}
	if c.isolates("filesystem/posix") || !c.isolates("volume/host_path") || c.checkIsolation() != nil {
		t.Errorf("for filesystem/shared: %q, %v", c.isolation(), c.checkIsolation())
	}
}

func TestTheDefaultContainerInfoIsForContainersThatBringNone(t *testing.T) {
	c := config(t)
	c.DefaultContainerInfo = `{"type": "MESOS", "volumes": [{"container_path": "/tmp", "host_path": "tmp", "mode": "RW"}]}`
	info, err := c.defaultContainerInfo()
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{defaultInfo: info}
	complete := func(id string, request *v1.ContainerConfig) *v1.ContainerConfig {
		t.Helper()
		parsed, err := container.ParseID(id)
		if err != nil {
			t.Fatal(err)
		}
		before := proto.CloneOf(request)
		got, err := e.Complete(parsed, request)
		if err != nil || !proto.Equal(before, request) {
			t.Errorf("%v; the request is %v", err, request)
		}
		return got
	}
	if got := complete("a", &v1.ContainerConfig{}).GetContainerInfo(); len(got.GetVolumes()) != 1 || got.GetType() != v1.ContainerInfo_MESOS {
		t.Errorf("one that brings none: %v", got)
	}
	if got := complete("a", &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{}}).GetContainerInfo(); len(got.GetVolumes()) != 0 {
		t.Errorf("one that brings an empty one: %v", got)
	}
	if got := complete("a.b", &v1.ContainerConfig{}).GetContainerInfo(); got != nil {
		t.Errorf("a nested one: %v", got)
	}
	id, _ := container.ParseID("a")
	image := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Mesos: &v1.ContainerInfo_MesosInfo{Image: &v1.Image{}}}}
	if _, err := e.Complete(id, image); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "filesystem/linux") {
		t.Errorf("an image, without filesystem/linux: %v", err)
	}
}
