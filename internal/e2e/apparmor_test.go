//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/testrig"
)

// profile loads a profile of AppArmor into the kernel until the test ends. It forbids
// what is written to /tmp/forbidden.
func profile(t *testing.T) (name string) {
	t.Helper()
	testrig.RequireRoot(t)
	if enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || !strings.HasPrefix(string(enabled), "Y") {
		t.Skip("needs a kernel where AppArmor is enabled, as that of script/vm is")
	}
	testrig.RequireTools(t, "apparmor_parser")
	name = fmt.Sprint("berth-test-", os.Getpid())
	file := filepath.Join(testrig.TempDir(t), name)
	rules := "profile " + name + " flags=(attach_disconnected, mediate_deleted) {\n\tfile,\n\tcapability,\n\tnetwork,\n\tsignal,\n\tdeny /tmp/forbidden w,\n}\n"
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "apparmor_parser", "--replace", "--skip-cache", file)
	t.Cleanup(func() { command(t, "apparmor_parser", "--remove", file) })
	return name
}

// The command has the profile, and whatever it starts; the kernel does as it says.
func TestTheKernelEnforcesAnAppArmorProfile(t *testing.T) {
	name := profile(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	const script = "read -r own </proc/self/attr/apparmor/current; echo $own; cat /proc/self/attr/apparmor/current; " +
		"(echo >/tmp/allowed) && echo written; (echo >/tmp/forbidden) 2>&1 && echo written"
	confined := name + " (enforce)\n" + name + " (enforce)\nwritten\nsh: can't create /tmp/forbidden: Permission denied\n"
	with := []string{"--security-opt", "apparmor=" + name}
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"without a profile", "unconfined\nunconfined\nwritten\nwritten\n", nil},
		{"with one", confined, with},
		{"with little else", confined, append(with, "--security-opt", "no-new-privileges", "--cap-drop=ALL", "-u", "1000")},
		{"another root", confined, append(with, "--userns", "auto", "--userns_range=3100000000:131072", "--image_provisioner_backend", "copy")},
	} {
		r := b.Run(append(append([]string{"run"}, c.args...), image, "--", "sh", "-c", script)...)
		if r.Stdout != c.want {
			t.Errorf("%s: %q, want %q\nstderr: %s", c.name, r.Stdout, c.want, r.Stderr)
		}
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Who looks into a container has its profile.
func TestACommandInAContainerWithAnAppArmorProfile(t *testing.T) {
	name := profile(t)
	w := newWorkshop(t)
	w.prints("w-c\n", "run", "-d", "--name", "w-c", "--security-opt", "apparmor="+name, w.image, "--", "sleep", "600")
	w.prints(name+" (enforce)\n", "exec", "w-c", "cat", "/proc/self/attr/apparmor/current")
}

// Of a profile that nobody has loaded there is no container without it.
func TestAnAppArmorProfileThatIsNotLoaded(t *testing.T) {
	name := profile(t) + "-not"
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	r := b.Run("run", "--security-opt", "apparmor="+name, image, "--", "echo", "runs")
	if expect(t, r, 125, "AppArmor profile", `"`+name+`"`, "not loaded", "apparmor_parser"); r.Stdout != "" {
		t.Errorf("it ran: %q", r.Stdout)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
