//go:build linux

package mesos

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/image"
	"berth/launcher"
)

// CVE-2019-5736: the container writes to the program that its first process executes.
func TestTheInitProgramCannotBeWritten(t *testing.T) {
	r := newRig(t)
	program := filepath.Join(r.world.Init, "berth-init")
	before := hashOf(t, program)
	// A read-only descriptor, reopened by its magic link, was the way around "text file
	// busy".
	script := `exec 3</proc/1/exe
		for n in 1 2 3 4 5 6 7 8 9 10; do
			for f in /proc/1/exe /proc/self/fd/3 /proc/1/task/1/exe; do
				echo broken 2>&1 >>$f; echo broken 2>&1 >$f
			done
		done; echo done; exec sleep 1000`
	shared := shell(script)
	shared.ContainerInfo.LinuxInfo = &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}
	shared.ImageArguments[2] = strings.NewReplacer("/proc/1/task/1/", "/proc/$PPID/task/$PPID/", "/proc/1/", "/proc/$PPID/").Replace(script)
	for name, request := range map[string]*v1.ContainerConfig{"own PID namespace": shell(script), "shared": shared} {
		c := r.start(request)
		c.says("done")
		stdout, _ := c.output()
		if n := strings.Count(stdout, "Read-only file system") + strings.Count(stdout, "Text file busy"); n != 60 {
			t.Errorf("%s: %d of 60 attempts were refused\n%.1000s", name, n, stdout)
		}
		// A descriptor of it that outlives the container.
		kept, err := os.Open(fmt.Sprintf("/proc/%d/exe", c.initOf()))
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		if _, err := r.Destroy(t.Context(), c.id); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", kept.Fd()), unix.O_WRONLY, 0)
		if !errors.Is(err, unix.EROFS) {
			unix.Close(fd)
			t.Errorf("%s: opened for writing through a kept descriptor: %v", name, err)
		}
	}
	// The image makes the container execute it once more.
	img := r.image(image.RunConfig{Entrypoint: []string{"/self"}}, pack(link("self", "/proc/self/exe")))
	if o := r.run(config(img, "x")); o.err == nil && o.code() == 0 {
		t.Errorf("the init program was executed as the command: %+v", o)
	}
	if hashOf(t, program) != before {
		t.Error("the program was changed")
	}
}

// trees lists the names, modes and contents below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&out, path, info.Mode(), info.Size())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// CVE-2019-16884, CVE-2019-19921, CVE-2021-30465, CVE-2023-28642 and their like: the
// image has links in the places of what berth mounts.
func TestLinksInThePlacesOfMounts(t *testing.T) {
	r := newRig(t)
	host := filepath.Join(r.dir, "host")
	if err := os.MkdirAll(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := tree(t, host)
	targets := []string{"/", "..", "../../../../..", "/etc", host, "../../../.." + host, "/proc/self/root" + host, "/proc/1/root", "self"}
	for _, place := range []string{"proc", "sys", "dev"} {
		for _, target := range targets {
			img := r.image(image.RunConfig{}, pack(link(place, target)))
			o := r.run(config(img, "true"))
			var start *launcher.StartError
			if !errors.As(o.err, &start) || start.Code != 125 || !strings.Contains(o.err.Error(), "symbolic link") {
				t.Errorf("/%s -> %s: %d, %v", place, target, o.code(), o.err)
			}
		}
	}
	// Below our own mounts nothing of the image is seen.
	img := r.image(image.RunConfig{}, pack(dir("dev", 0o755), link("dev/pts", host), link("dev/shm", host), link("dev/mqueue", host),
		link("dev/null", host+"/null"), link("dev/fd", host), link("dev/console", host+"/console"), dir("sys", 0o755), link("sys/fs", host),
		dir("proc", 0o755), link("proc/sys", host), link("proc/interrupts", host+"/interrupts")))
	if got := r.output(config(img, "stat", "-c", "%F %t:%T", "/dev/null", "/dev/pts", "/proc/sys", "/proc/interrupts")); got !=
		"character special file 1:3\ndirectory 0:0\ndirectory 0:0\ncharacter special file 1:3\n" {
		t.Errorf("%q", got)
	}
	for _, place := range []string{"mnt", "mnt/mesos", "mnt/mesos/sandbox"} {
		for _, target := range append(targets, "/proc", "/proc/sys", "/dev", "/dev/shm", "/sys", "/no/such") {
			img := r.image(image.RunConfig{}, pack(link(place, target)))
			// If it starts, the sandbox is where it should be and nothing else is covered.
			o := r.run(config(img, "sh", "-c", "echo x >$MESOS_SANDBOX/x && ls -d /bin /dev/null /proc/self/exe /sys/kernel >/dev/null && ls "+host+"/x"))
			var start *launcher.StartError
			switch {
			case errors.As(o.err, &start):
				if start.Code != 125 || !strings.Contains(o.err.Error(), "symbolic link") {
					t.Errorf("/%s -> %s: %v", place, target, o.err)
				}
			case o.err != nil:
				t.Errorf("/%s -> %s: %v", place, target, o.err)
			case strings.Contains(o.stderr, "null") || strings.Contains(o.stderr, "/bin"):
				t.Errorf("/%s -> %s: %q", place, target, o.stderr)
			}
		}
	}
	if after := tree(t, host); after != before {
		t.Errorf("the host's directory was\n%s\nand is\n%s", before, after)
	}
}

func TestFilesInThePlacesOfMounts(t *testing.T) {
	r := newRig(t)
	for _, place := range []string{"proc", "dev", "mnt/mesos/sandbox"} {
		img := r.image(image.RunConfig{}, pack(file(place, 0o644, "")))
		o := r.run(config(img, "true"))
		var start *launcher.StartError
		if !errors.As(o.err, &start) || start.Code != 125 || !strings.Contains(o.err.Error(), "/"+place) || !strings.Contains(o.err.Error(), "directory") {
			t.Errorf("/%s is a file: %v", place, o.err)
		}
	}
}

// CVE-2025-31133, CVE-2025-52565: the image's own /dev is made of links, and so what is
// put on masked files would be something else.
func TestTheDevicesOfAHostileImage(t *testing.T) {
	r := newRig(t)
	img := r.image(image.RunConfig{}, pack(dir("dev", 0o755), link("dev/null", "/proc/sys/kernel/core_pattern"),
		link("dev/console", "/proc/sysrq-trigger"), link("dev/ptmx", "/etc/passwd"), device("dev/zero", 1, 1)))
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	got := r.output(config(img, "sh", "-c", "stat -c %t:%T /dev/null /dev/zero; stat -c %t:%T -L /dev/ptmx; cat /proc/interrupts; ls /dev/console 2>/dev/null; echo x >/proc/interrupts"))
	if got != "1:3\n1:5\n5:2\n" {
		t.Errorf("%q", got)
	}
	if now, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || string(now) != string(pattern) {
		t.Errorf("core_pattern was %q and is %q, %v", pattern, now, err)
	}
}

// CVE-2024-21626: a working directory by way of a descriptor that berth has open on the
// host.
func TestAWorkingDirectoryByDescriptor(t *testing.T) {
	r := newRig(t)
	leakDescriptors(t, r.dir)
	leakDescriptors(t, "/")
	dirs := []string{"/proc/self/cwd", "/proc/self/root", "/proc/1/cwd", "/proc/thread-self/cwd/x", "proc/self/fd/5"}
	for n := range 41 {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", n))
	}
	dirs = append(dirs, "/proc/self/fd/200", "/proc/self/fd/200/sub", "/proc/1/fd/7/x", "/link", "/link/sub")
	img := r.image(image.RunConfig{}, pack(link("link", "/proc/self/fd/7")))
	for _, dir := range dirs {
		request := config(img, "pwd")
		request.WorkingDirectory = proto.String(dir)
		o := r.run(request)
		var start *launcher.StartError
		cleaned := path.Join("/", dir)
		if !errors.As(o.err, &start) || start.Code != 125 || !strings.Contains(o.err.Error(), cleaned) {
			t.Errorf("working directory %s: %d, %v, %q; want it refused", dir, o.code(), o.err, o.stdout)
		}
	}
	// Not one of those: it is a directory of the container.
	request := config(img, "pwd", "-P")
	request.WorkingDirectory = proto.String("/proc/self/fd")
	if o := r.run(request); o.err == nil && !strings.HasPrefix(o.stdout, "/proc/") {
		t.Errorf("/proc/self/fd: %+v", o)
	}
}

// In the host's PID namespace the links of procfs lead to the host's own root.
func TestAWorkingDirectoryOnTheHost(t *testing.T) {
	r := newRig(t)
	root := fmt.Sprintf("/proc/%d/root", os.Getpid())
	for _, dir := range []string{root + r.dir + "/made", "/link" + r.dir + "/made", root, "/proc/1/root" + r.dir + "/made"} {
		img := r.image(image.RunConfig{WorkingDir: dir}, pack(link("link", root)))
		request := config(img, "pwd")
		request.ContainerInfo.LinuxInfo = &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}
		o := r.run(request)
		var start *launcher.StartError
		if !errors.As(o.err, &start) || start.Code != 125 || !strings.Contains(o.err.Error(), dir) {
			t.Errorf("%s: %d, %v", dir, o.code(), o.err)
		}
	}
	if _, err := os.Lstat(filepath.Join(r.dir, "made")); err == nil {
		t.Error("the working directory was made on the host")
	}
}

func TestAccountFilesThatAreLinks(t *testing.T) {
	r := newRig(t)
	accounts := filepath.Join(r.dir, "accounts")
	if err := os.WriteFile(accounts, []byte("hosts:x:4242:4242::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, entry := range map[string]struct {
		layer []byte
		want  string
	}{
		"a link to the host":      {pack(link("etc/passwd", accounts)), "not found"},
		"a link that climbs":      {pack(link("etc/passwd", "../../../../../.."+accounts)), "not found"},
		"a FIFO":                  {pack(fifo("etc/passwd")), "not a regular file"},
		"a device":                {pack(device("etc/passwd", 1, 5)), "not a regular file"},
		"an account out of range": {pack(file("etc/passwd", 0o644, "hosts:x:4294967296:0::/:\n")), "not found"},
	} {
		request := config(r.image(image.RunConfig{User: "hosts"}, entry.layer), "id")
		if o := r.run(request); o.err == nil || !strings.Contains(o.err.Error(), entry.want) {
			t.Errorf("%s: %d, %v, %q", name, o.code(), o.err, o.stdout)
		}
	}
}

// fifo is a FIFO.
func fifo(name string) (h header) { h.Typeflag, h.Name, h.Mode = '6', name, 0o644; return h }

// A container may leave in its sandbox what is not removed easily.
func TestASandboxThatIsHardToRemove(t *testing.T) {
	r := newRig(t)
	c := r.start(shell(`cd $MESOS_SANDBOX
		i=0; while [ $i -lt 2500 ]; do mkdir d && cd d; i=$((i+1)); done
		cd $MESOS_SANDBOX; touch fixed; mkdir denied; chmod 0 denied; mkfifo fifo; ln -s / root; echo ready; sleep 1000`))
	c.says("ready")
	fixed, err := os.Open(filepath.Join(r.Layout.Sandbox(c.id), "fixed"))
	if err != nil {
		t.Fatal(err)
	}
	const immutable = 0x10
	if err := unix.IoctlSetPointerInt(int(fixed.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Log("no immutable files here:", err)
	}
	fixed.Close()
	if existed, err := r.Destroy(t.Context(), c.id); !existed || err != nil {
		t.Error(existed, err)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("left %d things", len(left))
	}
}

// A root filesystem that berth cannot write to needs the places that it mounts on.
func TestAReadOnlyBackendWithoutMountPoints(t *testing.T) {
	r := newRigWith(t, "bind", nil)
	o := r.run(shell("true"))
	var start *launcher.StartError
	if !errors.As(o.err, &start) || !strings.Contains(o.err.Error(), "--image_provisioner_backend") {
		t.Errorf("error %v does not name the remedy", o.err)
	}
	base, err := baseLayer()
	if err != nil {
		t.Fatal(err)
	}
	whole := slices.Concat(base[:len(base)-1024], pack(dir("proc", 0o755), dir("sys", 0o755), dir("dev", 0o755), dir("mnt", 0o755), dir("mnt/mesos", 0o755), dir("mnt/mesos/sandbox", 0o755)))
	if err := r.store.put(t.Context(), "whole", image.RunConfig{}, nil, whole); err != nil {
		t.Fatal(err)
	}
	missing := config("whole", "true")
	missing.WorkingDirectory = proto.String("/new")
	if o := r.run(missing); !errors.As(o.err, &start) || !strings.Contains(o.err.Error(), "does not have /new") {
		t.Errorf("a working directory that cannot be made: %v", o.err)
	}
	o = r.run(config("whole", "sh", "-c", "touch /x 2>&1; touch $MESOS_SANDBOX/x && echo written"))
	if o.code() != 0 || !strings.Contains(o.stdout, "Read-only") || !strings.Contains(o.stdout, "written") {
		t.Errorf("%d, %v, %q", o.code(), o.err, o.stdout)
	}
}
