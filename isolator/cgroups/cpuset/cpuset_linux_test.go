package cpuset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func on(cpus, mems string) *v1.ContainerConfig {
	settings := &v1.CgroupSettings{}
	if cpus != "" {
		settings.CpusetCpus = proto.String(cpus)
	}
	if mems != "" {
		settings.CpusetMems = proto.String(mems)
	}
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Cgroups: settings}}
}

func TestConformance(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	isolatortest.Run(t, New(groups), isolatortest.Requests{Good: on("0", "0"), Fork: groups.Fork, Gone: groups.Gone, Bad: map[string]*v1.ContainerConfig{
		"no such CPU":    on("0,9999", ""),
		"no such node":   on("", "999"),
		"not a list":     on("all", ""),
		"an empty part":  on("0,", ""),
		"backwards":      on("1-0", ""),
		"negative":       on("-1", ""),
		"endless":        on("0-4294967295", ""),
		"a second line":  on("0\n1", ""),
		"a range of one": on("0-", ""),
	}})
}

func TestTheFiles(t *testing.T) {
	for name, c := range map[string]struct {
		version   cgroup.Version
		list      string
		effective string
		want      string
		class     error
	}{
		"v1":                              {cgroup.V1, "1", "", "1", nil},
		"v1, nothing: that of the parent": {cgroup.V1, "", "", "0-3", nil},
		"v2":                              {cgroup.V2, "1,2", "1-2", "1,2", nil},
		"v2, nothing: that of the parent": {cgroup.V2, "", "0-3", "", nil},
		"v2, more than the parent has":    {cgroup.V2, "1-7", "1-3", "1-7", container.ErrInvalid},
	} {
		above := t.TempDir()
		dir := filepath.Join(above, "x")
		files := map[string]string{"cpuset.cpus": "0-3\n", "x/cpuset.cpus": "\n", "x/cpuset.cpus.effective": c.effective + "\n"}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(above, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := sets[0].set(cgroup.DirAt(dir, c.version), c.list); !errors.Is(err, c.class) {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, "cpuset.cpus")); strings.TrimSpace(string(got)) != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A nested container runs on no CPU that the one around it does not have.
func TestANestedContainerStaysOnTheCPUsOfItsParent(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	i := New(groups)
	if err := sets[0].check("0-1"); err != nil {
		t.Skip("this host has one CPU: ", err)
	}
	parent, err := container.ParseID("parent")
	if err != nil {
		t.Fatal(err)
	}
	child, err := parent.Child("child")
	if err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, parent)
	if err := i.Isolate(t.Context(), &isolator.Container{ID: parent, Config: on("0", "")}, 1); err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, child)
	err = i.Isolate(t.Context(), &isolator.Container{ID: child, Config: on("1", "")}, 1)
	if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), "the cgroup above") {
		t.Errorf("got %v", err)
	}
}
