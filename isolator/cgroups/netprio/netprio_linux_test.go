package netprio

import (
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func asks(priority uint32, names ...string) *v1.ContainerConfig {
	settings := &v1.CgroupSettings{}
	for _, name := range names {
		settings.NetPrio = append(settings.NetPrio, &v1.InterfacePriority{Interface: proto.String(name), Priority: &priority})
	}
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Cgroups: settings}}
}

func TestConformance(t *testing.T) {
	isolatortest.MountV1(t, controller)
	groups := isolatortest.NewGroups(t, controller)
	isolatortest.Run(t, New(groups), isolatortest.Requests{Good: asks(5, "lo"), Fork: groups.Fork, Gone: groups.Gone, Bad: map[string]*v1.ContainerConfig{
		"no such interface": asks(1, "none0"), "a second line": asks(1, "lo 7\nlo"), "no name": asks(1, ""), "twice": asks(1, "lo", "lo"), "too great": asks(1<<31, "lo"),
	}})
}

func TestPriorities(t *testing.T) {
	isolatortest.MountV1(t, controller)
	groups := isolatortest.NewGroups(t, controller)
	id, err := container.ParseID("x")
	if err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, id)
	group, err := groups.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := group.Dir(controller)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		config *v1.ContainerConfig
		want   uint32
	}{{asks(7, "lo"), 7}, {asks(0, "lo"), 0}, {asks(9, "lo"), 9}, {&v1.ContainerConfig{}, 0}} {
		if err := New(groups).Update(t.Context(), &isolator.Container{ID: id, Config: step.config}); err != nil {
			t.Fatal(err)
		}
		if got, err := read(dir); err != nil || got["lo"] != step.want {
			t.Errorf("%v, %v, want %d", got, err, step.want)
		}
	}
}
