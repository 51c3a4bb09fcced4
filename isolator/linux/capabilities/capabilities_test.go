package capabilities

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/capability"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

// info is a CapabilityInfo of names in one string.
func info(names string) *v1.CapabilityInfo {
	c := &v1.CapabilityInfo{}
	for _, name := range strings.Fields(names) {
		c.Capabilities = append(c.Capabilities, v1.CapabilityInfo_Capability(v1.CapabilityInfo_Capability_value[name]))
	}
	return c
}

func config(linux *v1.LinuxInfo, security *v1.SecurityOptions) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{LinuxInfo: linux}, Security: security}
}

func add(names ...string) *v1.SecurityOptions { return &v1.SecurityOptions{AddCapabilities: names} }

func drop(names ...string) *v1.SecurityOptions { return &v1.SecurityOptions{DropCapabilities: names} }

func effective(names string) *v1.LinuxInfo {
	return &v1.LinuxInfo{EffectiveCapabilities: info(names)}
}

func bounding(names string) *v1.LinuxInfo { return &v1.LinuxInfo{BoundingCapabilities: info(names)} }

var set = capability.Of

func bad() map[string]*v1.ContainerConfig {
	return map[string]*v1.ContainerConfig{
		"an unknown name":           config(nil, add("NET_RAWW")),
		"an unknown name dropped":   config(nil, drop("CAP_")),
		"a number without a name":   config(&v1.LinuxInfo{EffectiveCapabilities: &v1.CapabilityInfo{Capabilities: []v1.CapabilityInfo_Capability{1041}}}, nil),
		"UNKNOWN":                   config(&v1.LinuxInfo{BoundingCapabilities: &v1.CapabilityInfo{Capabilities: []v1.CapabilityInfo_Capability{0}}}, nil),
		"both names of one set":     config(&v1.LinuxInfo{EffectiveCapabilities: info("CHOWN"), CapabilityInfo: info("CHOWN")}, nil),
		"effective beyond bounding": config(&v1.LinuxInfo{EffectiveCapabilities: info("CHOWN NET_RAW"), BoundingCapabilities: info("CHOWN")}, nil),
		"what berth has not":        config(nil, add("SYS_RESOURCE")),
		"added and dropped":         config(nil, &v1.SecurityOptions{AddCapabilities: []string{"chown"}, DropCapabilities: []string{"CAP_CHOWN"}}),
		"ALL added and dropped":     config(nil, &v1.SecurityOptions{AddCapabilities: []string{"all"}, DropCapabilities: []string{"ALL"}}),
	}
}

const noResource = capability.All &^ (1 << 24)

func isolatorOf(t *testing.T, o Options) *Isolator {
	t.Helper()
	if o.Held == 0 {
		o.Held = noResource
	}
	i, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, isolatorOf(t, Options{}), isolatortest.Requests{
		Good: config(effective("NET_RAW"), &v1.SecurityOptions{NoNewPrivileges: proto.Bool(true)}), Bad: bad()})
}

func TestEachErrorNamesWhatIsWrong(t *testing.T) {
	for name, words := range map[string]string{
		"an unknown name": "NET_RAWW", "a number without a name": "41", "both names of one set": "only one of",
		"effective beyond bounding": "NET_RAW", "what berth has not": "SYS_RESOURCE", "added and dropped": "CHOWN", "ALL added and dropped": "ALL",
	} {
		_, err := isolatorOf(t, Options{}).Prepare(t.Context(), &isolator.Container{Config: bad()[name]})
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "linux/capabilities") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSets(t *testing.T) {
	none, raw, two := capability.Set(0), set("NET_RAW"), set("NET_RAW", "NET_ADMIN")
	for name, c := range map[string]struct {
		operator Options
		config   *v1.ContainerConfig
		want     isolator.Capabilities
	}{
		"nothing said":               {Options{}, config(nil, nil), isolator.Capabilities{Bounding: Default, Root: Default}},
		"berth has less":             {Options{Held: two}, config(nil, nil), isolator.Capabilities{Bounding: raw, Root: raw}},
		"effective":                  {Options{}, config(effective("NET_RAW"), nil), isolator.Capabilities{Bounding: raw, Root: raw, Others: raw}},
		"by its old name":            {Options{}, config(&v1.LinuxInfo{CapabilityInfo: info("NET_RAW")}, nil), isolator.Capabilities{Bounding: raw, Root: raw, Others: raw}},
		"effective and empty":        {Options{}, config(effective(""), nil), isolator.Capabilities{}},
		"bounding":                   {Options{}, config(bounding("NET_RAW"), nil), isolator.Capabilities{Bounding: raw, Root: raw}},
		"both":                       {Options{}, config(&v1.LinuxInfo{EffectiveCapabilities: info("NET_RAW"), BoundingCapabilities: info("NET_RAW NET_ADMIN")}, nil), isolator.Capabilities{Bounding: two, Root: raw, Others: raw}},
		"the operator's":             {Options{Effective: info("NET_RAW")}, config(nil, nil), isolator.Capabilities{Bounding: raw, Root: raw, Others: raw}},
		"the operator's bound":       {Options{Bounding: info("NET_RAW NET_ADMIN")}, config(nil, nil), isolator.Capabilities{Bounding: raw, Root: raw}},
		"the operator's both":        {Options{Effective: info("NET_RAW"), Bounding: info("NET_RAW NET_ADMIN")}, config(nil, nil), isolator.Capabilities{Bounding: two, Root: raw, Others: raw}},
		"the request's in the bound": {Options{Effective: info("NET_RAW"), Bounding: info("NET_RAW NET_ADMIN")}, config(effective("NET_ADMIN"), nil), isolator.Capabilities{Bounding: two, Root: set("NET_ADMIN"), Others: set("NET_ADMIN")}},
		"added":                      {Options{}, config(nil, add("cap_sys_admin")), isolator.Capabilities{Bounding: Default | set("SYS_ADMIN"), Root: Default | set("SYS_ADMIN"), Others: set("SYS_ADMIN")}},
		"all added":                  {Options{}, config(nil, add("ALL")), isolator.Capabilities{Bounding: noResource, Root: noResource, Others: noResource}},
		"all added, in the bound":    {Options{Bounding: info("NET_RAW NET_ADMIN")}, config(nil, add("ALL")), isolator.Capabilities{Bounding: two, Root: two, Others: two}},
		"all but one": {Options{}, config(nil, &v1.SecurityOptions{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"NET_RAW"}}),
			isolator.Capabilities{Bounding: noResource &^ raw, Root: noResource &^ raw, Others: noResource &^ raw}},
		"dropped":     {Options{}, config(nil, drop("NET_RAW")), isolator.Capabilities{Bounding: Default &^ raw, Root: Default &^ raw}},
		"all dropped": {Options{}, config(nil, drop("ALL")), isolator.Capabilities{Bounding: none}},
		"only one": {Options{}, config(nil, &v1.SecurityOptions{AddCapabilities: []string{"NET_RAW"}, DropCapabilities: []string{"ALL"}}),
			isolator.Capabilities{Bounding: raw, Root: raw, Others: raw}},
	} {
		got, err := isolatorOf(t, c.operator).Of(&isolator.Container{Config: c.config})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.want, *got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestTheOperatorsBoundHolds(t *testing.T) {
	i := isolatorOf(t, Options{Effective: info("NET_RAW"), Bounding: info("NET_RAW NET_ADMIN")})
	for name, c := range map[string]*v1.ContainerConfig{
		"effective beyond it":                  config(effective("CHOWN"), nil),
		"bounding beyond it":                   config(bounding("NET_RAW CHOWN"), nil),
		"added beyond it":                      config(nil, add("CHOWN")),
		"bounding below the effective default": config(bounding("NET_ADMIN"), nil),
	} {
		if sets, err := i.Of(&isolator.Container{Config: c}); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, sets, err)
		}
	}
}

func TestTheOperatorsSetsGoTogether(t *testing.T) {
	for name, o := range map[string]Options{
		"--effective_capabilities": {Effective: info("CHOWN"), Bounding: info("NET_RAW")},
		"--bounding_capabilities":  {Bounding: &v1.CapabilityInfo{Capabilities: []v1.CapabilityInfo_Capability{7}}},
	} {
		if _, err := New(o); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
