package netcls

import (
	"errors"
	"strings"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func TestConformance(t *testing.T) {
	isolatortest.MountV1(t, controller)
	for name, handles := range map[string]Handles{"with handles": {0x10, 1, 0xffff}, "without": {}} {
		t.Run(name, func(t *testing.T) {
			groups := isolatortest.NewGroups(t, controller)
			i := New(Options{Groups: groups, Handles: handles, Dir: t.TempDir(), Exists: func(container.ID) bool { return true }})
			isolatortest.Run(t, i, isolatortest.Requests{Fork: groups.Fork, Gone: groups.Gone})
			if err := i.each(func(path, id string) error { return errors.New(path + " is left to " + id) }); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestParseHandles(t *testing.T) {
	for _, c := range []struct {
		primary, secondary string
		want               Handles
	}{
		{"", "", Handles{}}, {"0xAAAA", "", Handles{0xaaaa, 1, 0xffff}}, {"0x1", "0x10,0x1f", Handles{1, 0x10, 0x1f}}, {"16", "1,1", Handles{16, 1, 1}},
	} {
		if got, err := ParseHandles(c.primary, c.secondary); err != nil || got != c.want {
			t.Errorf("%q %q: %v, %v", c.primary, c.secondary, got, err)
		}
	}
	for _, bad := range [][2]string{{"0x0", ""}, {"0x10000", ""}, {"tag", ""}, {"-1", ""}, {"0x1", "0x0,0x5"}, {"0x1", "0x5,0x1"}, {"0x1", "0x5"}, {"0x1", "0x1,0x2,0x3"}, {"0x1", "0x1,0x10000"}, {"", "0x1,0x2"}} {
		if got, err := ParseHandles(bad[0], bad[1]); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), "--cgroups_net_cls_") {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func TestHandlesAreTheContainersOwn(t *testing.T) {
	isolatortest.MountV1(t, controller)
	groups := isolatortest.NewGroups(t, controller)
	exists := map[string]bool{"one": true, "two": true}
	options := Options{Groups: groups, Handles: Handles{0x10, 1, 2}, Dir: t.TempDir(), Exists: func(id container.ID) bool { return exists[id.String()] }}
	var all []*isolator.Container
	for n, value := range []string{"one", "two", "three"} {
		id, err := container.ParseID(value)
		if err != nil {
			t.Fatal(err)
		}
		c := &isolator.Container{ID: id}
		all = append(all, c)
		i := New(options) // each could be another process
		_, err = i.Prepare(t.Context(), c)
		if n == 2 {
			if !errors.Is(err, container.ErrFailedPrecondition) || !strings.Contains(err.Error(), "secondary_handles") {
				t.Errorf("when all are taken: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		if err := i.Isolate(t.Context(), c, 1); err != nil {
			t.Fatal(err)
		}
		var status v1.ContainerStatus
		if err := i.Status(t.Context(), c, &status); err != nil || status.GetCgroupInfo().GetNetCls().GetClassid() != uint32(0x100001+n) {
			t.Errorf("%s: %v, %v", value, &status, err)
		}
	}
	// Who was killed while it prepared has left a handle to a container that there is not.
	exists["two"] = false
	if _, err := New(options).Prepare(t.Context(), all[2]); err != nil {
		t.Error(err)
	}
	for _, c := range all {
		if err := New(options).Cleanup(t.Context(), c.ID); err != nil {
			t.Error(err)
		}
	}
	if err := New(options).Isolate(t.Context(), all[0], 1); !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("without its handle: %v", err)
	}
}
