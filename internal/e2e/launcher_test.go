//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

func TestThePosixLauncher(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	for name, c := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"a status":        {[]string{"--", "sh", "-c", "echo out; exit 7"}, 7, "out\n", ""},
		"as the issue":    {[]string{"--isolation=filesystem/posix", "--", "sh", "-c", "basename $(dirname $PWD); ls -d /proc/1"}, 0, "containers\n/proc/1\n", ""},
		"a signal":        {[]string{"--", "sh", "-c", "kill -9 $$"}, 137, "", ""},
		"not executable":  {[]string{"--", "/etc/passwd"}, 126, "", "permission denied"},
		"another user":    {[]string{"-u", "65534:65534", "--", "id", "-u"}, 0, "65534\n", ""},
		"no such command": {[]string{"--", "/no/such"}, 127, "", "no such file"},
		"an image":        {[]string{"127.0.0.1:1/x", "--", "true"}, 125, "", "--isolation=filesystem/linux"},
		"a namespace":     {[]string{"--isolation=filesystem/posix,namespaces/pid", "--", "true"}, 125, "", "namespaces/pid: not supported: it needs --launcher=linux"},
		"a cgroup":        {[]string{"--isolation=posix/cpu,cgroups/mem", "--", "true"}, 125, "", "cgroups/mem: not supported: it needs --launcher=linux"},
	} {
		r := b.Run(append([]string{"run", "--launcher=posix"}, c.args...)...)
		if r.ExitCode != c.code || r.Stdout != c.stdout || !strings.Contains(r.Stderr, c.stderr) {
			t.Errorf("%s: %d, %q, %q", name, r.ExitCode, r.Stdout, r.Stderr)
		}
	}
	if r := b.Run("run", "--launcher=windows", "--", "true"); r.ExitCode != 125 || !strings.Contains(r.Stderr, "known are linux and posix") {
		t.Errorf("an unknown launcher: %d, %q", r.ExitCode, r.Stderr)
	}
}

// What a killed berth has left of a container the next one ends, whatever its launcher.
func TestAContainerOfAnotherLauncherIsRecovered(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	mark := "1000." + strconv.Itoa(os.Getpid())
	for _, launchers := range [][2]string{{"posix", "linux"}, {"linux", "posix"}} {
		p := b.Start("run", "--launcher="+launchers[0], "--", "sh", "-c", "(setsid sleep "+mark+" &); sleep "+mark+" & echo ready; wait")
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if out, _ := p.Output(); strings.Contains(out, "ready") && len(sleepers(mark)) == 2 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: it does not start", launchers[0])
			}
		}
		p.Signal(syscall.SIGKILL)
		p.Wait()
		if r := b.Run("run", "--launcher="+launchers[1], "--", "true"); r.ExitCode != 0 {
			t.Errorf("%d, %q", r.ExitCode, r.Stderr)
		}
		if left := sleepers(mark); len(left) > 0 {
			t.Errorf("of the %s launcher, %q live on", launchers[0], left)
		}
	}
}

// sleepers lists the processes that have an argument.
func sleepers(argument string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, _ := os.ReadFile(file); strings.Contains(string(line), "\x00"+argument+"\x00") {
			found = append(found, file)
		}
	}
	return found
}

// Without root there is the posix launcher, which runs the host's commands.
func TestRunWithoutRoot(t *testing.T) {
	testrig.RequireRoot(t) // to become somebody else
	b := testrig.Berth(t)
	dir, err := os.MkdirTemp("/var/tmp", "berth-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const somebody = 65534
	run := func(args ...string) (int, string) {
		bin := filepath.Join(dir, "bin")
		cmd := exec.Command(filepath.Join(bin, "berth"), append([]string{"run", "--work_dir", filepath.Join(dir, "home/work"), "--runtime_dir", filepath.Join(dir, "home/run")}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: somebody, Gid: somebody}}
		cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	// The programs of the tests are in a directory that is root's alone.
	if out, err := exec.Command("sh", "-c", "chmod 755 "+dir+"; mkdir "+dir+"/bin "+dir+"/home && cp "+filepath.Dir(b.Path)+"/berth* "+dir+"/bin && chown 65534 "+dir+"/home").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code, out := run("--", "sh", "-c", "id -u; id -g; touch x && echo $MESOS_SANDBOX; exit 3"); code != 3 || !strings.HasPrefix(out, "65534\n65534\n"+dir+"/home/work/containers/") {
		t.Errorf("%d, %q", code, out)
	}
	for words, args := range map[string][]string{
		"--launcher=linux: failed precondition: it makes mounts": {"--launcher=linux", "--", "true"},
		"needs --isolation=filesystem/linux":                     {"127.0.0.1:1/x"},
		"operation not permitted":                                {"-u", "0", "--", "true"},
	} {
		if code, out := run(args...); code != 125 || !strings.Contains(out, words) {
			t.Errorf("%q: %d, %q", args, code, out)
		}
	}
	left, _ := filepath.Glob(dir + "/home/*/containers/*")
	if len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
