//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/testrig"
)

// What a container may do of which nothing is said, seen from inside, and how that changes.
func TestWhatAContainerMayDo(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	profile := filepath.Join(testrig.TempDir(t), "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const status = "echo $(grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2)"
	// A program that is root's, executed by another user.
	const setUser = `printf 'root::0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n' > /etc/passwd
mkdir /bits && cp /bin/busybox /bits/su && chmod 4755 /bits/su
su app -c "id -u; /bits/su -c 'id -u' 2>/dev/null || echo no"`
	for _, c := range []struct {
		name   string
		args   []string
		script string
		want   string
	}{
		{"by default", nil, status, "00000000a80425fb 00000000a80425fb 0 2"},
		{"as another user", []string{"-u", "1000"}, status, "0000000000000000 00000000a80425fb 0 2"},
		{"no capabilities", []string{"--cap-drop=ALL"}, status, "0000000000000000 0000000000000000 0 2"},
		{"one", []string{"--cap-drop", "all", "--cap-add", "cap_net_raw"}, status, "0000000000002000 0000000000002000 0 2"},
		{"no new privileges", []string{"--security-opt", "no-new-privileges"}, status, "00000000a80425fb 00000000a80425fb 1 2"},
		{"no filter", []string{"--security-opt", "seccomp=unconfined"}, status, "00000000a80425fb 00000000a80425fb 0 0"},
		{"no mounts", nil, "mount -t tmpfs x /mnt 2>&1 || echo no", "mount: permission denied (are you root?)\nno"},
		{"no user namespaces", []string{"-u", "1000"}, "unshare -U true 2>&1 || echo no", "unshare: unshare(0x10000000): Operation not permitted\nno"},
		{"mounts for an administrator", []string{"--cap-add", "SYS_ADMIN"}, "mount -t tmpfs x /mnt && echo yes", "yes"},
		{"a profile", []string{"--security-opt", "seccomp=" + profile}, "mkdir /x 2>&1 || echo no", "mkdir: can't create directory '/x': No space left on device\nno"},
		{"set-user-id programs", nil, setUser, "1000\n0"},
		{"set-user-id programs without new privileges", []string{"--security-opt", "no-new-privileges"}, setUser, "1000\nno"},
		{"owners and users change", nil, "touch /f && chown 7:7 /f && chroot / id -u", "0"},
	} {
		r := b.Run(append(append([]string{"run"}, c.args...), image, "--", "sh", "-c", c.script)...)
		if expect(t, r, 0); strings.TrimSpace(r.Stdout) != c.want {
			t.Errorf("%s: %q, want %q", c.name, r.Stdout, c.want)
		}
	}
	for words, args := range map[string][]string{
		"NET_RAWW":                 {"--cap-add", "NET_RAWW"},
		"is added and dropped":     {"--cap-add", "CHOWN", "--cap-drop", "CHOWN"},
		"nosuch.json":              {"--security-opt", "seccomp=/nosuch.json"},
		"no JSON of a profile":     {"--security-opt", "seccomp=/etc/passwd"},
		"known are":                {"--security-opt", "selinux=please"},
		"--bounding_capabilities":  {"--bounding_capabilities", `{"capabilities": ["CHOWN"]}`, "--cap-add", "NET_RAW"},
		"--effective_capabilities": {"--bounding_capabilities", `{"capabilities": ["CHOWN"]}`, "--effective_capabilities", `{"capabilities": ["KILL"]}`},
		"--seccomp_config_dir":     {"--seccomp_profile_name", "x"},
	} {
		r := b.Run(append(append([]string{"run"}, args...), image, "--", "true")...)
		expect(t, r, 125, words)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
