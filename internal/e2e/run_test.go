//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

// expect fails the test unless the run ended with code and said all of the words on
// stderr.
func expect(t *testing.T, r testrig.Result, code int, words ...string) {
	t.Helper()
	if r.ExitCode != code {
		t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.ExitCode, code, r.Stdout, r.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(r.Stderr, word) {
			t.Errorf("stderr does not say %q:\n%s", word, r.Stderr)
		}
	}
}

// leftBy lists what of containers and pulls is in berth's directories; only whole
// layers, images and empty directories may stay.
func leftBy(t *testing.T, b *testrig.Command) (left []string) {
	t.Helper()
	for _, pattern := range []string{
		b.RuntimeDir + "/containers/*", b.WorkDir + "/containers/*", b.WorkDir + "/provisioner/containers/*",
		b.WorkDir + "/store/staging/*", b.WorkDir + "/store/leases/*",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

func TestExitStatusWithEachBackend(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	for _, backend := range []string{"erofs", "overlay", "copy", "bind"} {
		t.Run(backend, func(t *testing.T) {
			b := testrig.Berth(t)
			r := b.Run("run", "--image_provisioner_backend="+backend, image, "--", "sh", "-c", "exit 7")
			expect(t, r, 7)
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestBindNamesItsRule(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.MultiLayerImage(t, reg, "layers:1")
	b := testrig.Berth(t)
	r := b.Run("run", "--image_provisioner_backend=bind", image, "--", "true")
	expect(t, r, 125, "bind", "exactly one layer", "--image_provisioner_backend=overlay")
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// eachWay runs a test without an agent, and with one that runs what is in the foreground.
func eachWay(t *testing.T, test func(t *testing.T, b *testrig.Command)) {
	testrig.RequireRoot(t)
	t.Run("embedded", func(t *testing.T) { test(t, testrig.Berth(t)) })
	t.Run("by the agent", func(t *testing.T) {
		b := testrig.Berth(t)
		agent := startAgent(t, b)
		test(t, b)
		agent.Signal(syscall.SIGTERM)
		expect(t, agent.Wait(), 0)
		if _, log := agent.Output(); !strings.Contains(log, "container launch") || strings.Contains(log, "level=ERROR") {
			t.Errorf("the agent has launched none, or has trouble:\n%s", log)
		}
	})
}

func TestCommandLine(t *testing.T) { eachWay(t, testCommandLine) }

func testCommandLine(t *testing.T, b *testrig.Command) {
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1", "--config.env=FROM_IMAGE=yes", "--config.workingdir=/srv/made")
	entry := testrig.BusyboxImage(t, reg, "entry:1", "--config.entrypoint=/bin/echo", "--config.entrypoint=entry", "--config.user=app")
	b.Env = append(b.Env, "FROM_HOST=seen")
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string // exact
		stderr string // contained
	}{
		{"image's command", []string{image}, 0, "", ""},
		{"flags after the image", []string{image, "-e", "A=b", "--", "sh", "-c", "echo $A"}, 0, "b\n", ""},
		{"flags end at the first word", []string{image, "echo", "-e", "x"}, 0, "x\n", ""},
		{"both spellings", []string{"--image-provisioner-backend=copy", "--image_provisioner_backend=copy", image, "echo", "ok"}, 0, "ok\n", ""},
		{"environment", []string{"-e", "FROM_HOST", "-e", "X=1", image, "sh", "-c", "echo $FROM_IMAGE $FROM_HOST $X $HOME"}, 0, "yes seen 1 /root\n", ""},
		{"nothing of the host's environment", []string{image, "sh", "-c", "echo ${FROM_HOST-unset}"}, 0, "unset\n", ""},
		{"working directory of the image is made", []string{image, "pwd"}, 0, "/srv/made\n", ""},
		{"working directory of the request wins", []string{"-w", "/tmp", image, "pwd"}, 0, "/tmp\n", ""},
		{"entrypoint and cmd of the image", []string{entry}, 0, "entry sh\n", ""},
		{"arguments replace cmd", []string{entry, "--", "mine"}, 0, "entry mine\n", ""},
		{"entrypoint replaced", []string{"--entrypoint", "id", entry, "--", "-u"}, 0, "1000\n", ""},
		{"user of the request wins", []string{"--entrypoint", "id", "-u", "0:12", entry, "--", "-g"}, 0, "12\n", ""},
		{"shell", []string{"--shell", "echo $((6*7))", image}, 0, "42\n", ""},
		{"no input unless asked for", []string{image, "cat"}, 0, "", ""},
		{"host name", []string{"--hostname", "here", image, "hostname"}, 0, "here\n", ""},
		{"name is the host name", []string{"--name", "me", image, "hostname"}, 0, "me\n", ""},
		{"no network", []string{"--network", "none", image, "sh", "-c", "ls /sys/class/net"}, 0, "lo\n", ""},
		{"read-only", []string{"--read-only", "-w", "/", image, "sh", "-c", "echo x > /file"}, 1, "", "Read-only file system"},
		{"signal", []string{image, "sh", "-c", "kill -TERM $$"}, 143, "", ""},
		{"no such command", []string{image, "nosuch"}, 127, "", "not found in PATH"},
		{"no such path", []string{image, "/no/such"}, 127, "", "no such file"},
		{"not executable", []string{image, "/etc/passwd"}, 126, "", "permission denied"},
		{"a directory", []string{image, "/etc"}, 126, "", "/etc"},
		{"unknown user", []string{"-u", "nobody-here", image, "id"}, 125, "", "nobody-here"},
		{"uid out of range", []string{"-u", "4294967295", image, "id"}, 125, "", "range"},
		{"uid of 20 digits", []string{"-u", "12345678901234567890", image, "id"}, 125, "", "12345678901234567890"},
		{"unknown flag", []string{"--nosuch", image}, 125, "", "--nosuch"},
		{"unknown isolator", []string{"--isolation=filesystem/linux,no/such", image}, 125, "", "no/such"},
		{"isolator twice", []string{"--isolation=namespaces/pid,namespaces/pid", image}, 125, "", "twice"},
		{"an image without its file system", []string{"--isolation=docker/runtime", image}, 125, "", "a container with an image needs --isolation=filesystem/linux"},
		{"a limit that nobody sets", []string{"--isolation=filesystem/linux", "--memory=64m", image}, 125, "", "limit of mem: not supported: it needs --isolation=cgroups/mem"},
		{"unknown backend", []string{"--image_provisioner_backend=zfs", image}, 125, "", "known are erofs, overlay, aufs, copy, bind"},
		{"memory that is none", []string{"--memory", "lots", image}, 125, "", "64m"},
		{"memory below the minimum", []string{"--memory", "1m", image}, 125, "", "1 MiB"},
		{"cpus that are none", []string{"--cpus", "0", image}, 125, "", "positive"},
		{"id with a slash", []string{"--name", "../x", image}, 125, "", "--name"},
		{"reference that is none", []string{"UPPER/case"}, 125, "", "UPPER/case"},
		{"platform that is none", []string{"--platform", "linux", image}, 125, "", "platform"},
		{"host's file system", []string{"--", "sh", "-c", "test -d " + b.WorkDir + " && echo $$"}, 0, "", ""},
		{"limits of processes", []string{"--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "as=unlimited", image, "--", "sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c; ulimit -v"}, 0, "100\n200\n0\nunlimited\n", ""},
		{"a limit that ends a process", []string{"--ulimit", "fsize=1000", image, "--", "dd", "if=/dev/zero", "of=/file", "bs=1000", "count=2"}, 153, "", ""},
		{"a limit that there is not", []string{"--ulimit", "files=1", image}, 125, "", "a name as nofile"},
		{"a limit that is no number", []string{"--ulimit", "nofile=many", image}, 125, "", "neither a number nor unlimited"},
		{"a soft limit above the hard one", []string{"--ulimit", "nofile=2:1", image}, 125, "", "above the hard one"},
		{"a limit that is there twice", []string{"--ulimit", "core=1", "--ulimit", "core=2", image}, 125, "", "twice"},
		{"disk that is none", []string{"--disk", "some", image}, 125, "", "--disk"},
		{"disk below the minimum", []string{"--disk", "100k", image}, 125, "", "it must be from 1 to"},
		{"no time between measurements", []string{"--container_disk_watch_interval", "0s", image}, 125, "", "no time between two measurements"},
		{"disk limit", []string{"--disk", "10m", "--container_disk_watch_interval", "50ms", image, "--", "sh", "-c", "dd if=/dev/zero of=/file bs=1M count=20; sleep 1000"}, 137, "", "exceeds the limit of 10.0 MiB"},
		{"memory limit", []string{"--memory", "32m", image, "--", "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=100"}, 137, "", "memory limit of 32 MiB exceeded"},
	}
	for _, test := range tests {
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

func TestSecondRunMakesNoNetworkCall(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	expect(t, b.Run("run", "--pull=never", image, "true"), 125, "--pull=never", "not found")
	if n := reg.Requests(); n != 0 {
		t.Fatalf("--pull=never made %d requests", n)
	}
	expect(t, b.Run("pull", image), 0)
	pulled := reg.Requests()
	if pulled == 0 {
		t.Fatal("the registry saw no request: the test sees nothing")
	}
	expect(t, b.Run("pull", image), 0)
	expect(t, b.Run("run", image, "true"), 0)
	expect(t, b.Run("run", "--pull=never", image, "true"), 0)
	if n := reg.Requests(); n != pulled {
		t.Errorf("%d requests for a cached image", n-pulled)
	}
	expect(t, b.Run("run", "--pull=always", image, "true"), 0)
	if n := reg.Requests(); n == pulled {
		t.Error("--pull=always made no request")
	}
}

func TestInterruptStopsTheContainer(t *testing.T) { eachWay(t, testInterruptStopsTheContainer) }

func testInterruptStopsTheContainer(t *testing.T, b *testrig.Command) {
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	expect(t, b.Run("pull", image), 0)
	tests := []struct {
		name    string
		command string
		signals []syscall.Signal
		code    int
	}{
		{"passed on", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done", []syscall.Signal{syscall.SIGINT}, 9},
		{"the default ends it", "echo ready; exec sleep 60", []syscall.Signal{syscall.SIGTERM}, 143},
		{"the second one kills", "trap '' INT; echo ready; while :; do sleep 0.05; done", []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, 137},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := b.Start("run", image, "--", "sh", "-c", test.command)
			await(t, func() bool { out, _ := p.Output(); return strings.Contains(out, "ready") })
			for _, s := range test.signals {
				p.Signal(s)
				time.Sleep(50 * time.Millisecond) // two at once would be one
			}
			expect(t, p.Wait(), test.code)
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// await polls until the condition holds, and fails the test when it never does.
func await(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

func TestNamesAreTakenOnce(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	first := b.Start("run", "--name", "one", image, "--", "sh", "-c", "echo ready; sleep 60")
	await(t, func() bool { out, _ := first.Output(); return strings.Contains(out, "ready") })
	expect(t, b.Run("run", "--name", "one", image, "true"), 125, "already exists", "--name")
	expect(t, b.Run("destroy", "one"), 125, "lives")
	expect(t, b.Run("rmi", image), 125, "one uses it")
	first.Signal(syscall.SIGTERM)
	expect(t, first.Wait(), 143)
	expect(t, b.Run("run", "--name", "one", image, "true"), 0)
}

func TestProvisionAndDestroy(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	r := b.Run("provision", "--id", "mine", image)
	expect(t, r, 0)
	var made struct{ Rootfs string }
	if err := json.Unmarshal([]byte(r.Stdout), &made); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(made.Rootfs, "bin/busybox")); err != nil {
		t.Error(err)
	}
	// Another run recovers, and leaves alone what an operator has made.
	expect(t, b.Run("run", image, "true"), 0)
	if _, err := os.Stat(filepath.Join(made.Rootfs, "bin/busybox")); err != nil {
		t.Error(err)
	}
	expect(t, b.Run("provision", "--id", "mine", image), 125, "already exists")
	expect(t, b.Run("rmi", image), 125, "mine uses it")
	expect(t, b.Run("destroy", "mine"), 0)
	expect(t, b.Run("destroy", "mine"), 125, "not found")
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	expect(t, b.Run("rmi", image), 0)
	if layers, _ := filepath.Glob(b.WorkDir + "/store/layers/*"); len(layers) > 0 {
		t.Errorf("layers of a removed image: %q", layers)
	}
}

func TestDockerArchive(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	archive := filepath.Join(testrig.TempDir(t), "saved.tar")
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+image, "docker-archive:"+archive+":local/busybox:1")
	for _, reference := range []string{"docker-archive:" + archive, "docker-archive:" + archive + ":local/busybox:1"} {
		b := testrig.Berth(t)
		expect(t, b.Run("run", reference, "--", "sh", "-c", "exit 7"), 7)
		expect(t, b.Run("check"), 0)
	}
	b := testrig.Berth(t)
	expect(t, b.Run("run", "docker-archive:"+archive+":other:1", "true"), 125, "other:1", "local/busybox:1")
	// However the file is named, it is one image.
	t.Chdir(filepath.Dir(archive))
	expect(t, b.Run("provision", "--id", "mine", "docker-archive:saved.tar"), 0)
	expect(t, b.Run("run", "--pull=never", "docker-archive:./saved.tar", "true"), 0)
	expect(t, b.Run("rmi", "docker-archive:"+archive), 125, "mine uses it")
	expect(t, b.Run("destroy", "mine"), 0)
	expect(t, b.Run("rmi", "docker-archive:saved.tar"), 0)
}

func TestOCILayouts(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	dir := testrig.TempDir(t)
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+image, "oci:"+dir+"/layout:tag")
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+image, "oci-archive:"+dir+"/layout.tar:example.com/app:1")
	b := testrig.Berth(t)
	// The image's own configuration counts, and its layers are those of the registry's.
	layout, archive := "oci:"+dir+"/layout:tag", "oci-archive:"+dir+"/layout.tar"
	expect(t, b.Run("run", layout, "--", "sh", "-c", "exit 7"), 7)
	for _, name := range []string{image, archive, archive + ":example.com/app:1"} {
		r := b.Run("pull", name)
		expect(t, r, 0)
		if !strings.Contains(r.Stderr, "already there") || strings.Contains(r.Stderr, "fetching") {
			t.Errorf("%s: %s", name, r.Stderr)
		}
	}
	if names := recorded(t, b); len(names) != 4 {
		t.Errorf("recorded are %q", names)
	}
	expect(t, b.Run("run", archive+":other", "true"), 125, `"other"`, `it has ["example.com/app:1"]`)
	expect(t, b.Run("run", "--image_providers=docker", layout, "true"), 125, "--image_providers")
	expect(t, b.Run("pull", "--image_providers=rpm", layout), 125, "rpm", "known are appc, docker, oci")
	// It is mended from where it came from.
	flip(t, b, "etc/group")
	expect(t, b.Run("rmi", image, archive, archive+":example.com/app:1"), 0)
	expect(t, b.Run("repair"), 0)
	expect(t, b.Run("check"), 0)
	t.Chdir(dir)
	expect(t, b.Run("run", "--pull=never", "oci:layout:tag", "true"), 0)
	expect(t, b.Run("rmi", "oci:./layout:tag"), 0)
	if names := recorded(t, b); len(names) != 0 {
		t.Errorf("recorded are %q", names)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestKilledAnywhere is the promise of recovery: whatever a killed berth leaves is gone
// after the next run.
func TestKilledAnywhere(t *testing.T) {
	testrig.RequireRoot(t)
	runs := 200
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		runs = 5000
	}
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	expect(t, b.Run("run", image, "true"), 0)
	scope := b.Scope()
	scope.Files = []string{b.WorkDir, b.RuntimeDir}
	before := testrig.HostState(t, scope)
	for i := range runs {
		if i%4 != 3 {
			expect(t, b.Run("run", image, "--", "sh", "-c", "exit "+strconv.Itoa(i%100)), i%100)
			continue
		}
		args := []string{"run", image, "--", "sh", "-c", "sleep 0.02"}
		if i%8 == 7 { // also while it pulls
			args = []string{"run", "--pull=always", image, "--", "sleep", "60"}
		}
		p := b.Start(args...)
		// A launch takes some 20 ms; the steps cover it and some time after.
		time.Sleep(time.Duration(i*7919%40_000) * time.Microsecond)
		p.Signal(syscall.SIGKILL)
		p.Wait()
	}
	expect(t, b.Run("run", image, "true"), 0)
	for _, line := range before.Diff(testrig.HostState(t, scope)) {
		t.Error(line)
	}
}
