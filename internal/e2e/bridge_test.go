//go:build linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

const onNetworks = "--isolation=filesystem/linux,namespaces/pid,namespaces/uts,docker/runtime,network/cni"

// command runs a program of the host.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// neighbour is a machine on a network with the host: 192.0.2.1 and 2001:db8::1 are the host's
// addresses there.
func neighbour(t *testing.T) (pid string) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid = fmt.Sprint(cmd.Process.Pid)
	command(t, "ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", pid)
	command(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan0")
	command(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad")
	command(t, "ip", "link", "set", "lan0", "up")
	command(t, "nsenter", "-n", "-t", pid, "ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	command(t, "nsenter", "-n", "-t", pid, "ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	command(t, "nsenter", "-n", "-t", pid, "ip", "link", "set", "eth0", "up")
	return pid
}

// get asks a server of a container until it answers.
func get(t *testing.T, url string) (body string) {
	t.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	until(t, func() bool {
		answer, err := client.Get(url)
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		body = string(text)
		return err == nil
	})
	return body
}

// leases are the addresses that containers of a berth have.
func leases(t *testing.T, b *testrig.Command) (all []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.WorkDir, "network", "leases", "*", "[1f][0d]*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		all = append(all, filepath.Base(file))
	}
	return all
}

// wantNoTrace fails when something is left of the networks of a container.
func wantNoTrace(t *testing.T, b *testrig.Command, name string) {
	t.Helper()
	if left := leases(t, b); len(left) > 0 {
		t.Errorf("addresses are left: %q", left)
	}
	if left, _ := filepath.Glob(filepath.Join(b.WorkDir, "network", "containers", "*")); len(left) > 0 {
		t.Errorf("records are left: %q", left)
	}
	for line := range strings.Lines(command(t, "iptables-save") + command(t, "ip6tables-save")) {
		if strings.Contains(line, `id: \"`+name+`\"`) || strings.HasPrefix(line, ":CNI-DN-") {
			t.Errorf("a rule is left: %s", line)
		}
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

const request = `GET /index.html HTTP/1.0\r\n\r\n`

// asks is a command of a container for what a server has.
func asks(server string) string {
	return "printf '" + request + "' | nc -w 5 " + server + " | tail -n 1; "
}

func TestContainersOnTheBridge(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	testrig.RequireCNIPlugins(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	outside := neighbour(t)
	const serve = "mkdir /www && echo from $(hostname) > /www/index.html && ip -4 -o addr show eth0 | awk '{print $4}' > /www/address && httpd -f -p 80 -h /www"
	web := b.Start("run", onNetworks, "--name", "web", "--network", "bridge", "-p", "8080:80", "-p", "127.0.0.1:9000-9001:80-81", image, "--", "sh", "-c", serve)

	t.Run("a port of the host leads inside", func(t *testing.T) {
		for _, url := range []string{"http://127.0.0.1:8080", "http://192.0.2.1:8080", "http://127.0.0.1:9000", "http://[2001:db8::1]:8080"} {
			if got := get(t, url); got != "from web\n" {
				t.Errorf("%s: %q", url, got)
			}
		}
		from := func(server string) string {
			out, _ := exec.Command("nsenter", "-n", "-t", outside, "sh", "-c", "printf '"+request+"' | busybox nc -w 2 "+server+" | tail -n 1").CombinedOutput()
			return string(out)
		}
		for _, server := range []string{"192.0.2.1 8080", "2001:db8::1 8080"} {
			if got := from(server); got != "from web\n" {
				t.Errorf("from another machine, %s: %q", server, got)
			}
		}
		if got := from("192.0.2.1 9000"); !strings.Contains(got, "refused") {
			t.Errorf("what is mapped at the host's loopback address alone answers others: %q", got)
		}
	})
	address, _, _ := strings.Cut(get(t, "http://127.0.0.1:8080/address"), "/")
	t.Run("containers reach each other, and what the host reaches", func(t *testing.T) {
		server := exec.Command("nsenter", "-n", "-t", outside, "busybox", "nc", "-l", "-p", "7000", "-e", "busybox", "echo", "outside")
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
		r := b.Run("run", onNetworks, "--name", "client", "--network", "bridge", "--hostname", "box", image, "--", "sh", "-c",
			asks(address+" 80")+asks("192.0.2.1 8080")+asks("2001:db8::1 8080")+"nc 192.0.2.2 7000; grep box /etc/hosts | cut -f2; cat /etc/hostname; grep -c ' /etc/' /proc/self/mounts; ip -o link | wc -l")
		if expect(t, r, 0); r.Stdout != "from web\nfrom web\nfrom web\noutside\nbox\nbox\nbox\n3\n2\n" {
			t.Errorf("%q %s", r.Stdout, r.Stderr)
		}
	})
	t.Run("a port is one container's", func(t *testing.T) {
		r := b.Run("run", onNetworks, "--name", "second", "--network", "bridge", "-p", "8080:80", image, "--", "true")
		expect(t, r, 125, "8080", "container web")
		expect(t, b.Run("run", onNetworks, "-p", "8081:80", image, "--", "true"), 125, "--network bridge")
	})
	t.Run("none", func(t *testing.T) {
		r := b.Run("run", onNetworks, "--network", "none", image, "--", "sh", "-c", "ip -o addr | awk '{print $2,$4}'; nc -w 1 "+address+" 80 </dev/null 2>&1 | grep -o unreachable")
		if r.Stdout != "lo 127.0.0.1/8\nlo ::1/128\nunreachable\n" {
			t.Errorf("%q %s", r.Stdout, r.Stderr)
		}
	})
	t.Run("the host's network", func(t *testing.T) {
		r := b.Run("run", onNetworks, "--name", "hosted", image, "--", "sh", "-c",
			asks("127.0.0.1 8080")+"tail -1 /etc/hosts; cat /etc/hostname; cmp /etc/resolv.conf /proc/1/root/etc/resolv.conf; for f in hosts hostname resolv.conf; do echo x 2>/dev/null >> /etc/$f && echo wrote to $f; done; true")
		if expect(t, r, 0); r.Stdout != "from web\n127.0.1.1\thosted\nhosted\n" {
			t.Errorf("%q %s", r.Stdout, r.Stderr)
		}
	})
	web.Signal(syscall.SIGTERM)
	web.Wait()
	wantNoTrace(t, b, "web")

	t.Run("after a kill", func(t *testing.T) {
		p := b.Start("run", onNetworks, "--name", "killed", "--network", "bridge", "-p", "8080:80", image, "--", "sh", "-c", serve)
		get(t, "http://127.0.0.1:8080")
		p.Signal(syscall.SIGKILL)
		p.Wait()
		if got := leases(t, b); len(got) != 2 {
			t.Errorf("leases %q", got)
		}
		expect(t, b.Run("prune", "--exclude", image), 0) // by a process with another isolation
		wantNoTrace(t, b, "killed")
	})
	t.Run("after a reboot", func(t *testing.T) {
		p := b.Start("run", onNetworks, "--name", "rebooted", "--network", "bridge", "-p", "8080:80", image, "--", "sh", "-c", serve)
		get(t, "http://127.0.0.1:8080")
		reboot(t, b, p, "rebooted")
		r := b.Run("run", onNetworks, "--name", "rebooted", "--network", "bridge", image, "--", "sh", "-c", "ip -4 -o addr show eth0 | wc -l")
		if expect(t, r, 0); r.Stdout != "1\n" {
			t.Errorf("%q %s", r.Stdout, r.Stderr)
		}
		wantNoTrace(t, b, "rebooted")
	})
}

// reboot ends a run of berth and its container, and removes what a reboot would.
func reboot(t *testing.T, b *testrig.Command, p *testrig.Process, name string) {
	t.Helper()
	file, err := os.Open(filepath.Join(b.RuntimeDir, "containers", name, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var pid int
	if _, err := fmt.Fscan(bufio.NewReader(file), &pid); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The inner ones first, which are further down.
	for _, line := range slices.Backward(slices.Collect(strings.Lines(command(t, "cat", "/proc/self/mounts")))) {
		if point := strings.Fields(line)[1]; strings.HasPrefix(point, b.WorkDir) || strings.HasPrefix(point, b.RuntimeDir) {
			command(t, "umount", "-l", point)
		}
	}
	if err := os.RemoveAll(b.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		dirs, _ := exec.Command("find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", "*/"+b.CgroupsRoot+"/"+name+"*").Output()
		for dir := range strings.FieldsSeq(string(dirs)) {
			if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
				return false
			}
		}
		return true
	})
	command(t, "iptables", "-t", "nat", "-F")
	command(t, "ip6tables", "-t", "nat", "-F")
	for line := range strings.Lines(command(t, "ip", "-o", "link", "show", "type", "bridge")) {
		command(t, "ip", "link", "del", strings.TrimSuffix(strings.Fields(line)[1], ":"))
	}
}

// A network that cannot be joined ends the launch, and nothing is left of it.
func TestANetworkThatFails(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	testrig.RequireCNIPlugins(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	dir := testrig.TempDir(t)
	write(t, `{"cniVersion": "1.0.0", "name": "broken", "type": "broken"}`, dir, "conf", "broken.conf")
	write(t, "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '<html>'\n", dir, "plugins", "broken")
	if err := os.Chmod(filepath.Join(dir, "plugins", "broken"), 0o755); err != nil {
		t.Fatal(err)
	}
	flags := []string{"run", onNetworks, "--network_cni_config_dir=" + dir + "/conf", "--network-cni-plugins-dir=" + dir + "/plugins:/usr/lib/cni"}
	r := b.Run(append(flags, "--name", "c", "--network", "bridge,broken", image, "--", "echo", "it runs")...)
	if expect(t, r, 125, `"broken"`, "invalid character"); r.Stdout != "" {
		t.Errorf("stdout %q", r.Stdout)
	}
	wantNoTrace(t, b, "c")
	expect(t, b.Run("run", "--isolation=filesystem/linux,docker/runtime", "--network", "none", image, "--", "true"), 125, "--isolation=network/cni")
	expect(t, b.Run(append(flags, "--network", "absent", image, "--", "true")...), 125, "absent", "broken")
	r = b.Run("info", "--network_cni_config_dir="+dir+"/conf", "--network_cni_plugins_dir=/nowhere")
	expect(t, r, 0)
	for line := range strings.Lines(r.Stdout) {
		if name, _, _ := strings.Cut(line, " "); (name == "bridge" || name == "broken") && !strings.Contains(line, "containernetworking-plugins") {
			t.Errorf("berth info without plugins: %s", line)
		}
	}
}
