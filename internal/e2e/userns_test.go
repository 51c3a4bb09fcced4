//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

func TestUserNamespaces(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	const pool = "--userns_range=3100000000:131072"
	for _, backend := range []string{"erofs", "overlay", "copy"} {
		r := b.Run("run", pool, "--userns", "auto", "--image_provisioner_backend", backend, image, "--", "sh", "-c",
			"id -u; tr -s ' ' </proc/self/uid_map; touch /new && stat -c %u /new")
		expect(t, r, 0)
		if want := "0\n 0 3100000000 65536\n0\n"; r.Stdout != want {
			t.Errorf("%s: %q, not %q", backend, r.Stdout, want)
		}
	}
	r := b.Run("run", "--userns", "3200000000:70000", "-u", "69999", "-t", "--read-only", "--network", "none", image, "--", "sh", "-c",
		"id -u; tty; stat -c %u /dev/console; ls /sys/class/net")
	expect(t, r, 0)
	if want := "69999\n/dev/pts/0\n69999\nlo\n"; strings.ReplaceAll(r.Stdout, "\r", "") != want {
		t.Errorf("%q, not %q", r.Stdout, want)
	}
	r = b.Run("run", "--userns", "host", image, "--", "true")
	expect(t, r, 0)

	for args, words := range map[string][]string{
		"--userns me":                           {"START:SIZE", "auto"},
		"--userns 1000:65536":                   {"users of the host"},
		"--userns 3200000000:100":               {"65536"},
		"--userns auto --userns_range 5":        {"--userns_range", "START:SIZE"},
		"--userns auto --userns_range 5:100000": {"--userns_range", "users of the host"},
		"--userns auto -u 70000 " + pool:        {"70000", "0 to 65535"},
	} {
		r := b.Run(append(append([]string{"run"}, strings.Fields(args)...), image, "--", "true")...)
		expect(t, r, 125, words...)
	}
	expect(t, b.Run("run", "--userns", "auto", pool, "--", "true"), 125, "run an image")

	// A file of the host is read as who the container's root is there.
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, b.Run("run", "--userns", "auto", pool, "--uri", secret, image, "--", "true"), 125, "permission denied", "user 3100000000")
	expect(t, b.Run("run", "--uri", secret, image, "--", "test", "-f", "secret"), 0)

	info := b.Run("info", "--json", pool)
	expect(t, info, 0)
	if !strings.Contains(info.Stdout, `"user_namespaces": true`) && !strings.Contains(info.Stdout, `"user_namespaces":true`) {
		t.Errorf("info says\n%s", info.Stdout)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Who looks into a container has its users.
func TestExecInAUserNamespace(t *testing.T) {
	w := newWorkshop(t)
	w.does("run", "-d", "--name", "w-ids", "--userns", "3200000000:65536", w.image, "--", "sleep", "1000")
	const who = "id -u; tr -s ' ' </proc/self/uid_map"
	w.prints("0\n 0 3200000000 65536\n", "exec", "w-ids", "sh", "-c", who)
	w.prints("/dev/pts/0\r\n1000\r\n 0 3200000000 65536\r\n", "exec", "-t", "-u", "1000", "w-ids", "sh", "-c", "tty; "+who)
	if r := w.Run("exec", "w-ids", "sh", "-c", "echo out; echo err >&2; exit 7"); r.ExitCode != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("exec: %+v", r)
	}
	w.refuses([]string{"exec", "-u", "65536", "w-ids", "true"}, "65536", "0 to 65535")
	// By an agent that came back.
	w.agent.Signal(syscall.SIGKILL)
	w.agent.Wait()
	w.open()
	w.prints("0\n 0 3200000000 65536\n", "exec", "w-ids", "sh", "-c", who)
}

// A killed berth leaves ranges and mounts that the next one frees.
func TestUserNamespacesOfAKilledBerth(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	args := []string{"run", "--userns_range=3100000000:65536", "--userns", "auto", "--image_provisioner_backend", "copy", image, "--"}
	p := b.Start(append(args, "sh", "-c", "echo up; sleep 1000")...)
	await(t, func() bool { out, _ := p.Output(); return out == "up\n" })
	expect(t, b.Run(append(args, "true")...), 125, "have all ranges")
	p.Signal(syscall.SIGKILL)
	p.Wait()
	r := b.Run(append(args, "id", "-u")...)
	expect(t, r, 0)
	if r.Stdout != "0\n" {
		t.Errorf("it prints %q", r.Stdout)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
