//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/testrig"
)

// privateTmp is the example of the documentation of filesystem/shared.
const privateTmp = `{"type": "MESOS", "volumes": [{"host_path": "tmp", "container_path": "/tmp", "mode": "RW"}]}`

// besideTmp has berth work elsewhere than in /tmp, which cannot be private to a container
// whose sandbox is in it.
func besideTmp(t *testing.T, b *testrig.Command) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "berth-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b.WorkDir = filepath.Join(dir, "work")
}

func TestAPrivateTmp(t *testing.T) {
	testrig.RequireRoot(t)
	for name, args := range map[string][]string{
		"alone":           {"--isolation=filesystem/shared"},
		"with namespaces": {"--isolation=filesystem/shared,namespaces/pid,namespaces/ipc,namespaces/uts,cgroups/mem"},
	} {
		t.Run(name, func(t *testing.T) {
			b := testrig.Berth(t)
			besideTmp(t, b)
			file := filepath.Join(filepath.Dir(b.WorkDir), "info.json")
			if err := os.WriteFile(file, []byte(privateTmp), 0o644); err != nil {
				t.Fatal(err)
			}
			mark := "/tmp/" + filepath.Base(filepath.Dir(b.WorkDir))
			if err := os.WriteFile(mark, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(mark); os.Remove(mark + "-inside") })
			script := "stat -c %a /tmp; ls /tmp; touch " + mark + "-inside; ls tmp /tmp; cd /tmp && pwd"
			want := "1777\n" + "/tmp:\n" + filepath.Base(mark) + "-inside\n\ntmp:\n" + filepath.Base(mark) + "-inside\n" + "/tmp\n"
			for _, info := range []string{privateTmp, file, "file://" + file} {
				r := b.Run(append(append([]string{"run", "--default_container_info", info}, args...), "--", "sh", "-c", script)...)
				expect(t, r, 0)
				if sorted := strings.ReplaceAll(r.Stdout, "tmp:\n"+filepath.Base(mark)+"-inside\n\n/tmp:\n", "/tmp:\n"+filepath.Base(mark)+"-inside\n\ntmp:\n"); sorted != want {
					t.Errorf("stdout %q, want %q", r.Stdout, want)
				}
			}
			if _, err := os.Stat(mark + "-inside"); err == nil {
				t.Error("it was written on the host")
			}
			// Of containers that bring their own it is not.
			r := b.Run(append(append([]string{"run", "--default_container_info", privateTmp, "--container_info", `{"type": "MESOS"}`}, args...), "--", "ls", mark)...)
			expect(t, r, 0)
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestTheFileSystemOfAContainer(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	safe := filepath.Join(filepath.Dir(b.WorkDir), "safe")
	if err := os.MkdirAll(filepath.Join(safe, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"link": "/etc", "inside": "in"} {
		if err := os.Symlink(target, filepath.Join(safe, link)); err != nil {
			t.Fatal(err)
		}
	}
	volume := func(path string) string {
		return `{"type": "MESOS", "volumes": [{"host_path": "` + path + `", "container_path": "/v", "mode": "RO"}]}`
	}
	secret := `{"type": "MESOS", "volumes": [{"container_path": "/run/key", "mode": "RO", "source": {"type": "SECRET", "secret": {"type": "VALUE", "value": {"data": "cGFzc3dvcmQ="}}}}]}`
	reference := `{"type": "MESOS", "volumes": [{"container_path": "/run/key", "mode": "RO", "source": {"type": "SECRET", "secret": {"type": "REFERENCE", "reference": {"name": "key"}}}}]}`
	for _, test := range []struct {
		name   string
		args   []string
		code   int
		stdout string // exact, unless empty
		stderr string // contained
	}{
		{"posix", []string{"--isolation=filesystem/posix", "--", "sh", "-c", `[ "$(pwd)" = "$MESOS_SANDBOX" ] && readlink /proc/self/ns/mnt`}, 0, namespace(t) + "\n", ""},
		{"posix when no other is named", []string{"--isolation=cgroups/mem", "--", "readlink", "/proc/self/ns/mnt"}, 0, namespace(t) + "\n", ""},
		{"posix with an image", []string{"--isolation=filesystem/posix", image, "true"}, 125, "", "--isolation=filesystem/linux"},
		{"posix with a volume", []string{"--isolation=filesystem/posix", "--container_info", volume("/etc"), "--", "true"}, 125, "", "filesystem/shared"},
		{"shared with an image", []string{"--isolation=filesystem/shared", image, "true"}, 125, "", "--isolation=filesystem/linux"},
		{"two", []string{"--isolation=filesystem/shared,filesystem/linux", image, "true"}, 125, "", "filesystem/shared, filesystem/linux"},
		{"volumes of none", []string{"--isolation=volume/secret", "--", "true"}, 125, "", "volume/secret needs filesystem/linux or filesystem/shared"},
		{"in the prefix", []string{"--host_path_volume_prefixes=" + safe, "--container_info", volume(safe + "/inside"), image, "ls", "-d", "/v"}, 0, "/v\n", ""},
		{"a link out of it", []string{"--host-path-volume-prefixes=" + safe, "--container_info", volume(safe + "/link"), image, "true"}, 125, "", "--host_path_volume_prefixes"},
		{"beside it", []string{"--host_path_volume_prefixes=/srv," + safe, "--container_info", volume("/etc"), image, "true"}, 125, "", "--host_path_volume_prefixes"},
		{"out of it by dots", []string{"--host_path_volume_prefixes=" + safe, "--container_info", volume(safe + "/../../../etc"), image, "true"}, 125, "", `".."`},
		{"a relative prefix", []string{"--host_path_volume_prefixes=safe", image, "true"}, 125, "", "absolute"},
		{"a secret", []string{"--container_info", secret, image, "sh", "-c", "stat -c %a /run/key; cat /run/key"}, 0, "400\npassword", ""},
		{"a secret by name", []string{"--container_info", reference, image, "true"}, 125, "", `REFERENCE to "key"`},
		{"a default image", []string{"--default_container_info", `{"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": "` + image + `"}}}}`,
			"--", "/bin/busybox", "echo", "in it"}, 0, "in it\n", ""},
		{"no default", []string{"--default_container_info=/no/such/file", "--", "true"}, 125, "", "--default_container_info"},
		{"a default that is none", []string{"--default_container_info={", "--", "true"}, 125, "", "--default_container_info"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := b.Run(append([]string{"run"}, test.args...)...)
			expect(t, r, test.code, test.stderr)
			if test.stdout != "" && r.Stdout != test.stdout {
				t.Errorf("stdout %q, want %q", r.Stdout, test.stdout)
			}
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func namespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestInfoSaysWhatIsolatorsNeed(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	r := b.Run("info", "--json")
	expect(t, r, 0)
	var info struct {
		Isolators []struct{ Name, Needs string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &info); err != nil {
		t.Fatal(err)
	}
	needs := map[string]string{}
	for _, i := range info.Isolators {
		needs[i.Name] = i.Needs
	}
	for name, want := range map[string]string{
		"filesystem/posix": "", "filesystem/shared": "", "filesystem/linux": "", "cgroups/mem": `the cgroup controller "memory"`,
		"volume/host_path": "filesystem/linux or filesystem/shared", "volume/secret": "filesystem/linux or filesystem/shared",
	} {
		if got, ok := needs[name]; !ok || got != want {
			t.Errorf("%s needs %q, want %q", name, got, want)
		}
	}
	if r := b.Run("info"); !strings.Contains(r.Stdout, "NEEDS") || !strings.Contains(r.Stdout, "filesystem/linux or filesystem/shared") {
		t.Errorf("prints %s", r.Stdout)
	}
}
