package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/container"
)

// asMounted is a host whose hierarchies are directories with files.
func asMounted(version Version, mount string, controllers ...string) *Host {
	return &Host{hierarchies: []hierarchy{{version, mount, controllers}}}
}

func TestARootThatContainersCannotBeIn(t *testing.T) {
	mount := testTree(t, map[string]string{"berth/cgroup.procs": "", "used/cgroup.procs": strconv.Itoa(os.Getpid()) + "\n"})
	host := asMounted(V2, mount, "cpu")
	for _, good := range []string{"berth", "not/there/yet"} {
		if err := host.CheckRoot(good, []string{"cpu"}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for path, c := range map[string]struct {
		class error
		words string
	}{
		"used":     {container.ErrFailedPrecondition, "used by others, 1 processes, as " + strconv.Itoa(os.Getpid())},
		"/abs":     {container.ErrInvalid, "relative"},
		"..":       {container.ErrInvalid, "relative"},
		"berth/..": {container.ErrInvalid, "relative"},
		"":         {container.ErrInvalid, "relative"},
	} {
		if err := host.CheckRoot(path, []string{"cpu"}); !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if err := host.CheckRoot("berth", []string{"memory"}); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("a controller that there is not: %v", err)
	}
	if err := (&Host{}).CheckRoot("berth", nil); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "no cgroup hierarchy is mounted") {
		t.Errorf("no hierarchy: %v", err)
	}
}

func TestARootThatIsReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	err := asMounted(V1, mount, "freezer", "cpu").CheckRoot("berth", []string{"cpu"})
	if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "read-only: "+mount) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(mount, "berth")); err == nil {
		t.Error("something was made")
	}
}
