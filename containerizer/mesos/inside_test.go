//go:build linux

package mesos

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/image"
	"berth/isolator/network/cni"
	"berth/launcher"
)

func TestExitStatus(t *testing.T) {
	r := newRig(t)
	for script, want := range map[string]int{
		"exit 0": 0, "exit 7": 7, "exit 255": 255, "kill -9 $$": 137, "kill -TERM $$": 143, "kill -SEGV $$": 139, "kill -HUP $$": 129,
	} {
		if o := r.run(shell(script)); o.code() != want {
			t.Errorf("%s: %d, %v, want %d", script, o.code(), o.err, want)
		}
	}
}

func TestCommandsThatCannotBeExecuted(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"absent"}, 127, "not found in PATH"},
		{[]string{"/bin/absent"}, 127, "no such file"},
		{[]string{"./absent"}, 127, "no such file"},
		{[]string{"dangling"}, 127, "not found in PATH"},
		{[]string{"/lost"}, 127, "interpreter"},
		{[]string{"/plain"}, 126, "permission denied"},
		{[]string{"/garbage"}, 126, "exec format error"},
		{[]string{"/etc"}, 126, "permission denied"},
		{[]string{"/etc/passwd/x"}, 126, "not a directory"},
		{[]string{"sh", strings.Repeat("x", 1<<18)}, 126, "too long"},
	} {
		o := r.run(config(baseImage, c.args...))
		var start *launcher.StartError
		if !errors.As(o.err, &start) || start.Code != c.code || !strings.Contains(o.err.Error(), c.text) {
			t.Errorf("%.30q: %+v, %.300v, want the code %d and %q", c.args, start, o.err, c.code, c.text)
		}
	}
	for _, dir := range []string{"/plain", "/plain/x"} {
		request := shell("true")
		request.WorkingDirectory = proto.String(dir)
		var start *launcher.StartError
		if o := r.run(request); !errors.As(o.err, &start) || start.Code != 125 || !strings.Contains(o.err.Error(), dir) {
			t.Errorf("working directory %s: %v", dir, o.err)
		}
	}
}

func TestScriptsAndArguments(t *testing.T) {
	r := newRig(t)
	if got := r.output(config(baseImage, "/script", "a b", "", "c")); got != "script a b  c\n" {
		t.Errorf("%q", got)
	}
	// A command line is bytes, not text.
	if got := r.output(config(baseImage, "printf", "%s|", "caf\xe9", "\xff\xfe")); got != "caf\xe9|\xff\xfe|" {
		t.Errorf("%q", got)
	}
}

// leakDescriptors opens files of the host without close-on-exec, at low and high numbers.
func leakDescriptors(t *testing.T, path string) {
	t.Helper()
	for _, at := range []int{-1, -1, -1, 30, 200} {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if at >= 0 {
			if err := unix.Dup2(fd, at); err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			fd = at
		}
		t.Cleanup(func() { unix.Close(fd) })
	}
}

func links(t *testing.T, pattern string) map[string]string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatal(pattern, names, err)
	}
	targets := map[string]string{}
	for _, name := range names {
		target, err := os.Readlink(name)
		if err != nil {
			t.Fatal(err)
		}
		targets[filepath.Base(name)] = target
	}
	return targets
}

func TestDescriptors(t *testing.T) {
	r := newRig(t)
	leakDescriptors(t, r.dir)
	leakDescriptors(t, r.canary)
	c := r.start(config(baseImage, "sleep", "1000"))
	for fd, target := range links(t, fmt.Sprintf("/proc/%d/fd/*", c.processOf())) {
		if !slices.Contains([]string{"0", "1", "2"}, fd) || !strings.HasPrefix(target, "pipe:") {
			t.Errorf("the command has the descriptor %s of %s", fd, target)
		}
	}
	signals := "" // a pipe to itself
	allowed := func(fd, target string) bool {
		switch {
		case fd <= "2" && len(fd) == 1:
			return strings.HasPrefix(target, "pipe:")
		case strings.HasPrefix(target, "pipe:") && (signals == "" || signals == target):
			signals = target
			return true
		case target == r.Layout.Container(c.id).Status():
			return true
		}
		return slices.ContainsFunc([]string{"pidfd:", "anon_inode:[pidfd]", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"},
			func(kind string) bool { return strings.HasPrefix(target, kind) })
	}
	for fd, target := range links(t, fmt.Sprintf("/proc/%d/fd/*", c.initOf())) {
		if !allowed(fd, target) {
			t.Errorf("the init process has the descriptor %s of %s, within reach by /proc/1/fd", fd, target)
		}
	}
}

// mountPoints returns the fifth field of /proc/self/mountinfo.
func (r *rig) mountPoints(c *v1.ContainerConfig) []string {
	r.Helper()
	var points []string
	for line := range strings.Lines(r.output(c)) {
		points = append(points, strings.Fields(line)[4])
	}
	return points
}

func TestNothingOfTheHostIsMounted(t *testing.T) {
	for _, backend := range []string{"overlay", "copy"} {
		t.Run(backend, func(t *testing.T) {
			r := newRigWith(t, backend, nil)
			points := r.mountPoints(config(baseImage, "cat", "/proc/1/mountinfo"))
			want := []string{"/", "/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", sandboxDir, "/dev/shm", "/dev/mqueue", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
			if len(points) < len(want) {
				t.Fatalf("mounts: %q", points)
			}
			if diff := cmp.Diff(want, points[:len(want)]); diff != "" {
				t.Error(diff)
			}
			for _, p := range points[len(want):] {
				if !strings.HasPrefix(p, "/proc/") && !strings.HasPrefix(p, "/sys/") {
					t.Errorf("mounted: %s", p)
				}
			}
			for script, want := range map[string]string{
				"ls -a / | grep -v '^[.]*$' | tr '\n' ' '":     "bin dev etc garbage home lost mnt plain proc root script srv sys tmp zero",
				"test -e " + r.canary + " || echo unreachable": "unreachable",
				"cd /..; cd ..; pwd":                           "/",
				"cat /proc/1/root/plain":                       "no program",
			} {
				r.expect(script, want)
			}
		})
	}
}

func TestProcesses(t *testing.T) {
	r := newRig(t)
	r.expect("cat /proc/1/comm", "berth-init")
	// Of its environment, nothing is berth's; it is gone when it has become the waiter.
	r.expect("tr '\\0' ' ' </proc/1/cmdline; tr '\\0' ' ' </proc/1/environ | sed 's/^GOMAXPROCS=1 //'", "berth-init")
	if got := strings.Fields(r.output(config(baseImage, "ps", "-o", "comm"))); !slices.Equal(got, []string{"COMMAND", "berth-init", "ps"}) {
		t.Errorf("processes: %q", got)
	}
	entries := strings.Fields(r.output(config(baseImage, "ls", "/proc")))
	if n := len(slices.DeleteFunc(entries, func(e string) bool { return strings.Trim(e, "0123456789") != "" })); n != 2 {
		t.Errorf("%d processes are in /proc, want berth-init and ls", n)
	}
}

func TestNamespaces(t *testing.T) {
	r := newRig(t)
	none := shell("")
	none.ContainerInfo.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String(cni.None)}}
	shared := shell("")
	shared.ContainerInfo.LinuxInfo = &v1.LinuxInfo{SharePidNamespace: proto.Bool(true), IpcMode: v1.LinuxInfo_SHARE_PARENT.Enum()}
	for name, c := range map[string]struct {
		config *v1.ContainerConfig
		own    []string
	}{
		"by default":    {shell(""), []string{"mnt", "pid", "ipc", "uts"}},
		"no network":    {none, []string{"mnt", "pid", "ipc", "uts", "net"}},
		"shared by all": {shared, []string{"mnt", "uts"}},
	} {
		c.config.ImageArguments[2] = "for ns in mnt pid ipc uts net user; do echo $ns $(readlink /proc/self/ns/$ns); done"
		for line := range strings.Lines(r.output(c.config)) {
			ns, inside, _ := strings.Cut(strings.TrimSpace(line), " ")
			outside, err := os.Readlink("/proc/self/ns/" + ns)
			if err != nil {
				t.Fatal(err)
			}
			if own := inside != outside; own != slices.Contains(c.own, ns) {
				t.Errorf("%s: the namespace %s is its own: %v", name, ns, own)
			}
		}
	}
}

func TestNetworks(t *testing.T) {
	r := newRig(t)
	interfaces := "tail -n +3 /proc/net/dev | sed 's/:.*//; s/ //g' | sort | tr '\\n' ' '"
	none := shell(interfaces + "; cat /sys/class/net/lo/operstate; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo pinged; ls /sys/class/net")
	none.ContainerInfo.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String(cni.None)}}
	if got := strings.Fields(r.output(none)); !slices.Equal(got, []string{"lo", "unknown", "pinged", "lo"}) {
		t.Errorf("without a network: %q", got)
	}
	names, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(r.sh("ls /sys/class/net")); len(got) != len(names) {
		t.Errorf("with the host's network: %q, the host has %v", got, names)
	}
}

func TestIPC(t *testing.T) {
	r := newRig(t)
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	r.expect("tail -n +2 /proc/sysvipc/shm | wc -l", "0")
	r.expect("echo x >/dev/shm/file && cat /dev/shm/file && stat -c '%a %F' /dev/shm && grep ' /dev/shm ' /proc/mounts | cut -d' ' -f1,3", "x\n1777 directory\nshm tmpfs")
	sized := shell("df -m /dev/shm | tail -n 1 | awk '{print $2}'")
	sized.ContainerInfo.LinuxInfo = &v1.LinuxInfo{ShmSize: proto.Uint32(3)}
	if got := strings.TrimSpace(r.output(sized)); got != "3" {
		t.Errorf("/dev/shm has %s MiB, want 3", got)
	}
}

func TestDevices(t *testing.T) {
	r := newRig(t)
	want := []string{
		"null 1:3 666 character special file", "zero 1:5 666 character special file", "full 1:7 666 character special file",
		"random 1:8 666 character special file", "urandom 1:9 666 character special file", "tty 5:0 666 character special file",
	}
	got := strings.Split(strings.TrimSpace(r.sh("cd /dev; stat -c '%n %t:%T %a %F' null zero full random urandom tty")), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for script, want := range map[string]string{
		"ls /dev | tr '\\n' ' '":                                       "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
		"echo x >/dev/null && wc -c </dev/null":                        "0",
		"head -c 3 /dev/zero | od -An -tx1":                            "00 00 00",
		"head -c 8 /dev/urandom | wc -c":                               "8",
		"echo x 2>&1 >/dev/full; echo $?":                              "sh: write error: No space left on device\n1",
		"cat /dev/tty 2>&1":                                            "cat: can't open '/dev/tty': No such device or address",
		"echo x | cat /dev/stdin /dev/fd/0 >/dev/stdout 2>/dev/stderr": "x",
		"ls /dev/pts; exec 3<>/dev/ptmx && ls /dev/pts | tr '\\n' ' '": "ptmx\n0 ptmx",
		"stat -c '%a %u %g' /dev /dev/pts":                             "755 0 0\n755 0 0",
	} {
		if o := r.run(shell(script)); strings.TrimSpace(o.stdout+o.stderr) != want {
			t.Errorf("%s\nprints %q\nwant   %q", script, o.stdout+o.stderr, want)
		}
	}
}

func TestKernelFilesOfTheHost(t *testing.T) {
	r := newRig(t)
	for _, script := range []string{
		"echo x >/proc/sys/kernel/hostname", "echo x >/proc/sysrq-trigger", "touch /sys/x", "mkdir /sys/fs/cgroup/x",
		"echo 1 >/proc/sys/vm/drop_caches", "echo 1 >/proc/irq/default_smp_affinity",
	} {
		if o := r.run(shell(script)); o.code() == 0 || !strings.Contains(o.stderr, "Read-only file system") && !strings.Contains(o.stderr, "nonexistent") {
			t.Errorf("%s: %d %s", script, o.code(), o.stderr)
		}
	}
	for _, masked := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/key-users", "/proc/sched_debug", "/sys/firmware", "/proc/acpi", "/proc/scsi", "/sys/devices/virtual/powercap"} {
		st, err := os.Stat(masked)
		if err != nil {
			continue // not in this kernel
		}
		if st.IsDir() {
			r.expect("ls -A "+masked+"; touch "+masked+"/x 2>/dev/null || echo read-only", "read-only")
		} else {
			r.expect("stat -c %t:%T "+masked+"; cat "+masked+"; echo x 2>/dev/null >"+masked+" && echo written", "1:3\nwritten")
		}
	}
	r.expect("ls -A /sys/fs/cgroup | wc -l", "0")
	r.expect("ls -A /sys/kernel/debug /sys/kernel/tracing 2>/dev/null | grep -v : | wc -w", "0")
}

func TestHostname(t *testing.T) {
	r := newRig(t)
	named := shell("hostname; cat /proc/sys/kernel/hostname")
	named.ContainerInfo.Hostname = proto.String("my-host")
	if got := r.output(named); got != "my-host\nmy-host\n" {
		t.Errorf("%q", got)
	}
	c, err := r.try(mustID(t, "the-id"), shell("hostname"))
	if err != nil {
		t.Fatal(err)
	}
	if o := c.wait(); o.stdout != "the-id\n" {
		t.Errorf("%q", o.stdout)
	}
}

// That berth runs with a umask of its own must not close the container to its users.
func TestWorkingDirectory(t *testing.T) {
	r := newRig(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	r.expect("pwd; echo $PWD", sandboxDir+"\n"+sandboxDir)
	made := shell("pwd; stat -c '%a %u' . .. /mnt /mnt/mesos; umask")
	made.WorkingDirectory = proto.String("/new/deep")
	if got := r.output(made); got != "/new/deep\n755 0\n755 0\n755 0\n755 0\n0022\n" {
		t.Errorf("%q", got)
	}
	img := r.image(image.RunConfig{WorkingDir: "/srv"})
	if got := r.output(config(img, "pwd")); got != "/srv\n" {
		t.Errorf("that of the image: %q", got)
	}
	request := config(img, "pwd")
	request.WorkingDirectory = proto.String("/tmp")
	if got := r.output(request); got != "/tmp\n" {
		t.Errorf("that of the request: %q", got)
	}
	host := filepath.Join(r.dir, "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		"/link/x": "/srv/x", "srv/y": "/srv/y", "srv/../tmp/./z/": "/tmp/z", "../../..": "/", "/climbing/x": "/etc/x", "/to the host/x": host + "/x",
	} {
		linked := r.image(image.RunConfig{WorkingDir: dir}, pack(link("link", "/srv"), link("climbing", "../../../../../etc"), link("to the host", host),
			header{Typeflag: '5', Name: host[1:] + "/", Mode: 0o755}))
		if got := r.output(config(linked, "sh", "-c", "pwd -P; stat -c '%a %u:%g' .")); got != want+"\n755 0:0\n" {
			t.Errorf("%s: %q", dir, got)
		}
	}
	assertEmpty(t, host)
	readOnly := config(r.image(image.RunConfig{WorkingDir: "/not/there"}), "sh", "-c", "pwd; touch x 2>/dev/null || echo read-only")
	readOnly.ReadOnlyRootfs = proto.Bool(true)
	if got := r.output(readOnly); got != "/not/there\nread-only\n" {
		t.Errorf("in a read-only root filesystem: %q", got)
	}
}

// assertEmpty fails the test if something was made on the host.
func assertEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("on the host: %v, %v", entries, err)
	}
}

func TestAWorkingDirectoryThatIsNone(t *testing.T) {
	r := newRig(t)
	for dir, words := range map[string]string{
		"/plain": "a file in its place", "/plain/x": "a file in its place", "/dangling": "leads to nothing", "/dangling/x": "leads to nothing",
		"/loop": "a circle", "/dev/null": "a file in its place", "/proc/no/such": "/proc/no/such",
	} {
		img := r.image(image.RunConfig{WorkingDir: dir}, pack(link("dangling", filepath.Join(r.dir, "new")), link("loop", "loop")))
		o := r.run(config(img, "true"))
		var start *launcher.StartError
		if !errors.As(o.err, &start) || start.Code != 125 || !strings.Contains(o.err.Error(), "working directory "+dir) || !strings.Contains(o.err.Error(), words) {
			t.Errorf("%s: %d, %v, want an error that says %q", dir, o.code(), o.err, words)
		}
	}
	if _, err := os.Lstat(filepath.Join(r.dir, "new")); err == nil {
		t.Error("it was made on the host")
	}
}

func TestEnvironmentInside(t *testing.T) {
	r := newRig(t)
	t.Setenv("OF_BERTH", "secret")
	img := r.image(image.RunConfig{Env: []string{"A=image", "B=image", "TERM=x"}})
	request := config(img, "env")
	request.CommandInfo = variables("A=request", "NEW=\xff 1").CommandInfo
	got := strings.Split(strings.TrimSuffix(r.output(request), "\n"), "\n")
	want := []string{"PATH=" + defaultPath, "HOME=/root", "MESOS_SANDBOX=" + sandboxDir, "A=request", "B=image", "TERM=x", "NEW=\xff 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUser(t *testing.T) {
	r := newRig(t)
	img := r.image(image.RunConfig{User: "app"}, pack(file("etc/group", 0o644, groupFile+"member:x:30:app\n")))
	script := "id -u; id -g; id -G; echo $HOME; echo x >$MESOS_SANDBOX/file && cat $MESOS_SANDBOX/file"
	for user, want := range map[string]string{
		"":          "1000\n100\n100 20 30\n/home/app\nx\n",
		"root":      "0\n0\n0\n/root\nx\n",
		"0":         "0\n0\n0\n/root\nx\n",
		"1234":      "1234\n0\n0\n/\nx\n",
		"1234:5678": "1234\n5678\n5678\n/\nx\n",
		"app:extra": "1000\n20\n20\n/home/app\nx\n",
	} {
		request := config(img, "sh", "-c", script)
		if user != "" {
			request.User = proto.String(user)
		}
		if got := r.output(request); got != want {
			t.Errorf("user %q: %q, want %q", user, got, want)
		}
	}
}

// There is no isolator for capabilities yet: root has all that berth has. What must
// hold now is that other users have none, and that nobody inherits any
// (CVE-2022-29162).
func TestCapabilities(t *testing.T) {
	r := newRig(t)
	user := shell("grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '")
	user.User = proto.String("app")
	const none = "0000000000000000"
	if got := strings.TrimSpace(r.output(user)); got != fmt.Sprintf("CapInh:%s CapPrm:%[1]s CapEff:%[1]s CapAmb:%[1]s", none) {
		t.Error(got)
	}
	r.expect("grep -E '^Cap(Inh|Amb)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '", fmt.Sprintf("CapInh:%s CapAmb:%[1]s", none))
}

func TestSandbox(t *testing.T) {
	r := newRig(t)
	c := r.start(shell("echo data >$MESOS_SANDBOX/file; mknod $MESOS_SANDBOX/zero c 1 5; head -c 1 $MESOS_SANDBOX/zero 2>&1; echo ready; sleep 1000"))
	c.says("ready")
	if data, err := os.ReadFile(filepath.Join(r.Layout.Sandbox(c.id), "file")); err != nil || string(data) != "data\n" {
		t.Errorf("on the host: %q, %v", data, err)
	}
	if stdout, _ := c.output(); !strings.Contains(stdout, "Permission denied") {
		t.Errorf("a device in the sandbox works: %q", stdout)
	}
}

func TestReadOnlyRootfs(t *testing.T) {
	r := newRig(t)
	request := shell("for d in / /tmp /etc /mnt; do touch $d/x 2>&1; done; for d in $MESOS_SANDBOX /dev/shm /dev; do touch $d/x && echo $d; done; mount -o remount,rw / 2>&1")
	request.ReadOnlyRootfs = proto.Bool(true)
	o := r.run(request)
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	if len(lines) < 7 || !slices.Equal(lines[4:7], []string{sandboxDir, "/dev/shm", "/dev"}) || strings.Count(o.stdout, "Read-only file system") < 4 {
		t.Errorf("%q %q", o.stdout, o.stderr)
	}
}

func TestDevicesOfTheImageDoNothing(t *testing.T) {
	r := newRig(t)
	for _, script := range []string{"head -c 1 /zero", "mknod /z c 1 5 && head -c 1 /z"} {
		if o := r.run(shell(script)); o.code() == 0 || !strings.Contains(o.stderr, "Permission denied") {
			t.Errorf("%s: %d %q", script, o.code(), o.stderr)
		}
	}
}

func TestOrphansAreReaped(t *testing.T) {
	r := newRig(t)
	r.expect(`i=0; while [ $i -lt 100 ]; do (true &); i=$((i+1)); done
		n=0; while [ $n -lt 100 ]; do
			zombies=$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)
			[ $zombies = 0 ] && break
			sleep 0.05; n=$((n+1))
		done; echo $zombies`, "0")
	// Without a PID namespace the host's first process must not have to do it.
	shared := shell(`(sleep 0.1; exec sleep 1000) & sh -c 'sleep 1000 & echo $! >/tmp/pid'
		grep PPid /proc/$(cat /tmp/pid)/status | cut -f2 >/tmp/parent; cat /proc/$(cat /tmp/parent)/comm`)
	shared.ContainerInfo.LinuxInfo = &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}
	if got := strings.TrimSpace(r.output(shared)); got != "berth-init" {
		t.Errorf("the orphan's parent is %s", got)
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	r := newRig(t)
	signals := map[string]syscall.Signal{"HUP": unix.SIGHUP, "INT": unix.SIGINT, "QUIT": unix.SIGQUIT, "TERM": unix.SIGTERM,
		"USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2, "WINCH": unix.SIGWINCH, "ALRM": unix.SIGALRM, "TSTP": unix.SIGTSTP}
	script := ""
	for name := range signals {
		script += "trap 'echo got " + name + "' " + name + ";"
	}
	c := r.start(shell(script + "echo ready; while :; do sleep 0.02; done"))
	c.says("ready")
	for name, s := range signals {
		if err := r.Kill(t.Context(), c.id, s); err != nil {
			t.Error(err)
		}
		c.says("got " + name)
	}
	if err := r.Kill(t.Context(), c.id, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if o := c.wait(); o.code() != 137 {
		t.Errorf("killed: %d", o.code())
	}
}

// From the moment that Launch returns, signals are the command's.
func TestStop(t *testing.T) {
	r := newRig(t)
	for stop, number := range map[string]string{"SIGRTMIN+3": "37", "quit": "QUIT", "12": "USR2", "": "TERM"} {
		img := r.image(image.RunConfig{StopSignal: stop})
		c := r.start(config(img, "sh", "-c", "trap 'exit 9' "+number+"; echo ready; while :; do sleep 0.02; done"))
		c.says("ready")
		if err := r.Stop(t.Context(), c.id); err != nil {
			t.Error(err)
		}
		if o := c.wait(); o.code() != 9 {
			t.Errorf("stopped by %q: %d, %v, want the trap of %s", stop, o.code(), o.err, number)
		}
	}
}

func TestASignalRightAfterTheLaunch(t *testing.T) {
	r := newRig(t)
	for range 20 {
		c, err := r.try(r.newID(), config(baseImage, "sleep", "1000"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Kill(t.Context(), c.id, unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if o := c.wait(); o.code() != 143 {
			t.Fatalf("the exit code is %d, want 143 for the command's SIGTERM", o.code())
		}
	}
}

func TestSignalDispositionsAreTheDefaults(t *testing.T) {
	r := newRig(t)
	signal.Ignore(unix.SIGHUP, unix.SIGUSR1) // as under nohup(1)
	defer signal.Reset(unix.SIGHUP, unix.SIGUSR1)
	got := r.output(config(baseImage, "grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"))
	var blocked, ignored, caught uint64
	if _, err := fmt.Sscanf(got, "SigBlk: %x\nSigIgn: %x\nSigCgt: %x\n", &blocked, &ignored, &caught); err != nil {
		t.Fatalf("%q: %v", got, err)
	}
	// The signals 32 and 33 are the C library's own; no Go program touches them.
	ignored &^= 1<<31 | 1<<32
	if blocked|ignored|caught != 0 {
		t.Errorf("not the defaults: %q", got)
	}
}

// What a command sends to its own process group comes once.
func TestTheCommandHasAProcessGroupOfItsOwn(t *testing.T) {
	r := newRig(t)
	r.expect("n=0; trap 'n=$((n+1))' USR1; kill -USR1 0; sleep 0.1; echo $n", "1")
}

func TestTheWholeTreeEndsWithTheCommand(t *testing.T) {
	r := newRig(t)
	script := "trap '' HUP TERM; setsid sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 & (sleep 1000 &) ; exit 3"
	shared := shell(script)
	shared.ContainerInfo.LinuxInfo = &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}
	for name, request := range map[string]*v1.ContainerConfig{"own PID namespace": shell(script), "shared": shared} {
		if o := r.run(request); o.code() != 3 {
			t.Errorf("%s: %d, %v", name, o.code(), o.err)
		}
		if left := processesIn(r.world.CgroupsRoot); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func TestOnTheHostsFileSystem(t *testing.T) {
	r := newRig(t)
	before := r.hostMounts()
	script := "cat " + r.canary + "; echo; pwd; echo $MESOS_SANDBOX; mount -t tmpfs none /mnt; [ $(ls -d /proc/[0-9]* | wc -l) -lt 10 ] && echo own processes"
	c, err := r.try(r.newID(), &v1.ContainerConfig{CommandInfo: &v1.CommandInfo{Value: proto.String(script)}})
	if err != nil {
		t.Fatal(err)
	}
	sandbox := r.Layout.Sandbox(c.id)
	if o := c.wait(); o.stdout != fmt.Sprintf("canary\n%s\n%[1]s\nown processes\n", sandbox) {
		t.Errorf("%q %q", o.stdout, o.stderr)
	}
	if after := r.hostMounts(); after != before {
		t.Errorf("the host's mounts were\n%s\nand are\n%s", before, after)
	}
	missing := filepath.Join(r.dir, "missing")
	o := r.run(&v1.ContainerConfig{ImageArguments: []string{"true"}, WorkingDirectory: proto.String(missing)})
	if o.err == nil || exists(missing) {
		t.Errorf("a working directory on the host was made: %v", o.err)
	}
}

// An isolator that makes mounts must not make them on the host because another one, that
// would have asked for a mount namespace, is not configured.
func TestNoMountIsEverMadeOnTheHost(t *testing.T) {
	r := newRigWith(t, "overlay", func(p *parts) { p.isolators = p.isolators[4:] }) // without filesystem/linux
	before := r.hostMounts()
	for name, request := range map[string]*v1.ContainerConfig{
		"on the host":   {ImageArguments: []string{"true"}},
		"with an image": config(baseImage, "true"),
	} {
		if o := r.run(request); o.code() != 0 {
			t.Errorf("%s: %d, %v", name, o.code(), o.err)
		}
	}
	if after := r.hostMounts(); after != before {
		t.Errorf("the host's mounts were\n%s\nand are\n%s", before, after)
	}
}

// hostMounts is the host's mount table without what is mounted in the directories of
// other tests, which run at the same time.
func (r *rig) hostMounts() string {
	r.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, r.dir) || !strings.Contains(line, " "+os.TempDir()+"/") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func hashOf(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}
