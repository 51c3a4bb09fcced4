package operator

import (
	"strings"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
)

func TestALaunchSaysHowMuchItWantsOfWhatIsCounted(t *testing.T) {
	const cpus, mem = `{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}}`, `{"name": "mem", "type": "SCALAR", "scalar": {"value": 64}}`
	own := `"container_info": {"type": "MESOS", "linux_info": {"share_cgroups": false}}`
	for name, c := range map[string]struct {
		id, config string
		counted    []string
		words      string
	}{
		"requests":                {"c", `{"resources": [` + cpus + `,` + mem + `]}`, []string{"cpus", "mem"}, ""},
		"a request and a limit":   {"c", `{"resources": [` + cpus + `], "limits": {"mem": {"value": 64}}}`, []string{"cpus", "mem"}, ""},
		"no limits, and it says":  {"c", `{"limits": {"cpus": {"value": "Infinity"}, "mem": {"value": "Infinity"}}}`, []string{"cpus", "mem"}, ""},
		"nothing":                 {"c", `{}`, []string{"cpus", "mem"}, "No cpus resource given"},
		"no cpus":                 {"c", `{"resources": [` + mem + `]}`, []string{"cpus", "mem"}, "No cpus resource given"},
		"no mem":                  {"c", `{"limits": {"cpus": {"value": 1}}}`, []string{"cpus", "mem"}, "No mem resource given"},
		"nobody counts cpus":      {"c", `{"resources": [` + mem + `]}`, []string{"mem"}, ""},
		"nobody counts":           {"c", `{}`, nil, ""},
		"in its parent's cgroups": {"p.c", `{}`, []string{"cpus", "mem"}, ""},
		"nested, in its own":      {"p.c", `{` + own + `}`, []string{"cpus", "mem"}, "No cpus resource given"},
	} {
		id, err := container.ParseID(c.id)
		if err != nil {
			t.Fatal(err)
		}
		config := &v1.ContainerConfig{}
		if err := v1.Unmarshal([]byte(c.config), config); err != nil {
			t.Fatal(err)
		}
		s := newServer(t)
		s.Counted = c.counted
		switch err := s.checkLaunch(id, config); {
		case c.words == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words)):
			t.Errorf("%s: got %v, want %q", name, err, c.words)
		}
	}
}
