//go:build linux

package e2e

import (
	"os"
	"strings"
	"testing"

	"berth/internal/testrig"
)

// containerLabel is of the policy script/vm-selinux.te, which forbids it to make files.
const containerLabel = "system_u:system_r:berth_container_t"

// enforcingSELinux skips where no kernel enforces that policy.
func enforcingSELinux(t *testing.T) {
	t.Helper()
	testrig.RequireRoot(t)
	const needs = "needs a kernel that enforces script/vm-selinux.te, as that of `script/vm selinux` does"
	if enforces, err := os.ReadFile("/sys/fs/selinux/enforce"); err != nil || string(enforces) != "1" {
		t.Skip(needs)
	}
	if err := os.WriteFile("/sys/fs/selinux/context", []byte(containerLabel), 0); err != nil {
		t.Skip(needs)
	}
}

// The command is in the domain of its label, and whatever it starts, and who looks into the
// container; the kernel does as its policy says.
func TestTheKernelEnforcesASELinuxLabel(t *testing.T) {
	enforcingSELinux(t)
	w := newWorkshop(t)
	const script = "tr '\\0' '\\n' </proc/self/attr/current; " +
		"(: >$MESOS_SANDBOX/made) 2>&1 && echo made; cat /proc/version >/dev/null && echo read"
	const confined = containerLabel + "\nsh: can't create /mnt/mesos/sandbox/made: Permission denied\nread\n"
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"without a label", "system_u:system_r:host_t\nmade\nread\n", nil},
		{"with one", confined, []string{"--security-opt", "label=" + containerLabel}},
		{"with little else", confined,
			[]string{"--security-opt", "label=" + containerLabel, "--cap-drop=ALL", "-u", "1000"}},
	} {
		r := w.Run(append(append([]string{"run"}, c.args...), w.image, "--", "sh", "-c", script)...)
		if r.ExitCode != 0 || strings.ReplaceAll(r.Stdout, "\n\n", "\n") != c.want {
			t.Errorf("%s: %d %q, want %q\nstderr: %s", c.name, r.ExitCode, r.Stdout, c.want, r.Stderr)
		}
	}
	w.prints("w-c\n", "run", "-d", "--name", "w-c", "--security-opt", "label="+containerLabel, w.image, "--", "sleep", "600")
	if r := w.Run("exec", "w-c", "sh", "-c", script); !strings.HasPrefix(r.Stdout, containerLabel+"\n") || strings.Contains(r.Stdout, "made\n") {
		t.Errorf("who looks into it: %q %s", r.Stdout, r.Stderr)
	}
	r := w.Run("run", "--security-opt", "label=system_u:system_r:absent_t", w.image, "--", "echo", "it runs")
	if expect(t, r, 125, "SELinux label", "absent_t", "no such label"); r.Stdout != "" {
		t.Errorf("without a label that there is: %q", r.Stdout)
	}
}
