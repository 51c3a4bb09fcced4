package isolator

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/container"
	"berth/internal/capability"
	"berth/launcher/plan"
)

func TestCapabilitiesOfAUser(t *testing.T) {
	raw, both := capability.Of("NET_RAW"), capability.Of("NET_RAW", "CHOWN")
	for name, c := range map[string]struct {
		sets *Capabilities
		uid  uint32
		want *plan.Capabilities
	}{
		"nothing said":         {nil, 0, nil},
		"root":                 {&Capabilities{both, both, 0}, 0, &plan.Capabilities{Effective: 0x2001, Bounding: 0x2001}},
		"root with less":       {&Capabilities{both, raw, 0}, 0, &plan.Capabilities{Effective: 0x2000, Bounding: 0x2001, Inheritable: 0x2000, Ambient: 0x2000, NoRoot: true}},
		"root with none":       {&Capabilities{both, 0, 0}, 0, &plan.Capabilities{Bounding: 0x2001, NoRoot: true}},
		"another, with none":   {&Capabilities{both, both, 0}, 7, &plan.Capabilities{Bounding: 0x2001}},
		"another, with some":   {&Capabilities{both, both, raw}, 7, &plan.Capabilities{Effective: 0x2000, Bounding: 0x2001, Inheritable: 0x2000, Ambient: 0x2000}},
		"root, nothing at all": {&Capabilities{}, 0, &plan.Capabilities{}},
	} {
		if diff := cmp.Diff(c.want, Confinement{Capabilities: c.sets}.Of(c.uid).Capabilities); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestConfinementIsMergedOrRefused(t *testing.T) {
	parts := []Confinement{
		{Capabilities: &Capabilities{1, 1, 1}},
		{Filter: []byte{1}, FilterFlags: 2},
		{AppArmorProfile: "p"},
		{SELinuxLabel: "l"},
	}
	infos := []*LaunchInfo{{Confinement: Confinement{NoNewPrivileges: true}}, {Confinement: Confinement{NoNewPrivileges: true}}}
	for _, p := range parts {
		infos = append(infos, &LaunchInfo{Confinement: p})
	}
	sum, err := Merge(infos)
	want := Confinement{&Capabilities{1, 1, 1}, true, []byte{1}, 2, "p", "l"}
	if diff := cmp.Diff(want, sum.Confinement); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, p := range parts {
		if _, err := Merge([]*LaunchInfo{{Confinement: p}, {Confinement: p}}); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%+v twice: %v", p, err)
		}
	}
	text, err := json.Marshal(want)
	var back Confinement
	if err := errors.Join(err, json.Unmarshal(text, &back)); err != nil || !cmp.Equal(want, back) {
		t.Errorf("recorded %s, read %+v, %v", text, back, err)
	}
}
