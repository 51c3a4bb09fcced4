package engine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/device"
)

func TestAllowedDevices(t *testing.T) {
	const good = `{"allowed_devices": [{"device": {"path": "/dev/null"}, "access": {"read": true, "mknod": true}}]}`
	file := filepath.Join(t.TempDir(), "devices.json")
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{good, file, "file://" + file} {
		allowed, err := Config{AllowedDevices: value}.allowedDevices()
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		rules, err := device.Rules(allowed)
		if err != nil || len(rules) != 1 || rules[0].String() != "c 1:3 rm" {
			t.Errorf("%s: %v, %v", value, rules, err)
		}
	}
	for name, value := range map[string]string{
		"not JSON":        `{"allowed_devices": [`,
		"no access":       `{"allowed_devices": [{"device": {"path": "/dev/null"}, "access": {"read": false}}]}`,
		"access missing":  `{"allowed_devices": [{"device": {"path": "/dev/null"}}]}`,
		"device missing":  `{"allowed_devices": [{"access": {"read": true}}]}`,
		"no device":       `{"allowed_devices": [{"device": {"path": "/etc"}, "access": {"read": true}}]}`,
		"negative number": `{"allowed_devices": [{"device": {"number": {"major_number": -1, "minor_number": 0}}, "access": {"read": true}}]}`,
		"no file":         "/no/such/file",
	} {
		if _, err := (Config{AllowedDevices: value}).allowedDevices(); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A name beside cgroups/all is there once, by whichever of its names.
func TestEveryCgroupOnce(t *testing.T) {
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	for _, named := range []string{"cgroups/io", "cgroups/blkio"} {
		for _, isolation := range [][]string{{named, everyCgroup}, {everyCgroup, named}} {
			expanded := expandCgroups(isolation, host)
			if err := twice("--isolation", expanded); err != nil || !slices.Contains(expanded, "cgroups/blkio") || isolation[0] != named && isolation[1] != named {
				t.Errorf("%q became %q: %v", isolation, expanded, err)
			}
		}
	}
}
