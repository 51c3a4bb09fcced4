//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

func TestWhatAnImageSaysOfHowItIsRun(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	const show = `echo "$0 $* user $(id -u):$(id -g) in $(pwd) home $HOME A=$A"; stat -c "%U %a" .`
	image := testrig.BusyboxImage(t, reg, "runtime:1", "--config.user=app", "--config.workingdir=/srv/made", "--config.env=A=image",
		"--config.entrypoint=sh", "--config.entrypoint=-c", "--config.entrypoint="+show, "--config.cmd=x") // after the "sh" of the base
	bad := func(name string, config ...string) string { return testrig.BusyboxImage(t, reg, name, config...) }
	b := testrig.Berth(t)
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string // exact
		stderr string // contained
	}{
		{"all of it", []string{image}, 0, "sh x user 1000:1000 in /srv/made home /home/app A=image\nroot 755\n", ""},
		{"arguments replace Cmd", []string{image, "a", "b"}, 0, "a b user 1000:1000 in /srv/made home /home/app A=image\nroot 755\n", ""},
		{"a name and a group", []string{"-u", "root:tty", image, "a"}, 0, "a  user 0:5 in /srv/made home /root A=image\nroot 755\n", ""},
		{"a number without an account", []string{"-u", "4321", image, "a"}, 0, "a  user 4321:0 in /srv/made home / A=image\nroot 755\n", ""},
		{"environment and directory", []string{"-e", "A=mine", "-e", "HOME=/x", "-w", "/tmp/new/deep", image, "a"}, 0, "a  user 1000:1000 in /tmp/new/deep home /x A=mine\nroot 755\n", ""},
		{"a relative directory", []string{"-w", "var/../new", image, "a"}, 0, "a  user 1000:1000 in /new home /home/app A=image\nroot 755\n", ""},
		{"a read-only root filesystem without the directory", []string{"--read-only", image, "a"}, 0, "a  user 1000:1000 in /srv/made home /home/app A=image\nroot 755\n", ""},
		{"a shell", []string{"--shell", "echo $A", image}, 0, "image\n", ""},
		{"directory by descriptor", []string{"-w", "/proc/self/fd/5", image}, 125, "", "/proc/self/fd/5"},
		{"directory by descriptor, of the image", []string{bad("fd:1", "--config.workingdir=/proc/self/fd/5")}, 125, "", "/proc/self/fd/5"},
		{"a file in its place", []string{"-w", "/etc/passwd", image}, 125, "", "a file in its place"},
		{"user of 20 digits, of the image", []string{bad("digits:1", "--config.user=12345678901234567890")}, 125, "", "12345678901234567890"},
		{"unknown user of the image", []string{bad("unknown:1", "--config.user=nobody-here")}, 125, "", "--user"},
		{"another user instead", []string{"-u", "app", bad("unknown:1", "--config.user=nobody-here"), "id", "-un"}, 0, "app\n", ""},
		{"unknown stop signal", []string{bad("stop:1", "--config.stopsignal=SIGNOSUCH")}, 125, "", "SIGRTMIN+3"},
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

// One configuration, by way of either type of image: each isolator acts upon its own.
// What carries out what an image says comes with its provider, and is not to be named.
func TestEachTypeOfImageBringsItsIsolator(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	docker := testrig.BusyboxImage(t, reg, "type:1", "--config.user=app", "--config.workingdir=/srv")
	dir := filepath.Join(testrig.TempDir(t), "layout")
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+docker, "oci:"+dir+":1")
	b := testrig.Berth(t)
	for _, isolation := range []string{"filesystem/linux,namespaces/pid", "filesystem/linux,namespaces/pid,docker/runtime"} {
		for _, image := range []string{docker, "oci:" + dir + ":1"} {
			r := b.Run("run", "--isolation="+isolation, image, "--", "sh", "-c", "echo $(id -u) $(pwd)")
			expect(t, r, 0)
			if r.Stdout != "1000 /srv\n" {
				t.Errorf("%s with %s: %q", image, isolation, r.Stdout)
			}
		}
	}
}

func TestTheStopSignalOfAnImage(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	const script = `for s in TERM INT USR1; do trap "echo got $s; exit 9" $s; done; echo ready; while :; do sleep 0.05; done`
	b := testrig.Berth(t)
	for _, test := range []struct {
		name    string
		config  []string
		signal  syscall.Signal
		arrives string
	}{
		{"by name", []string{"--config.stopsignal=SIGUSR1"}, syscall.SIGTERM, "USR1"},
		{"by number", []string{"--config.stopsignal=10"}, syscall.SIGTERM, "USR1"},
		{"none", nil, syscall.SIGTERM, "TERM"},
		{"what does not ask to stop is passed on as it is", []string{"--config.stopsignal=SIGUSR1"}, syscall.SIGINT, "INT"},
	} {
		t.Run(test.name, func(t *testing.T) {
			image := testrig.BusyboxImage(t, reg, "stop:"+strings.ReplaceAll(test.name, " ", "-"), test.config...)
			p := b.Start("run", image, "--", "sh", "-c", script)
			await(t, func() bool { out, _ := p.Output(); return strings.Contains(out, "ready") })
			p.Signal(test.signal)
			r := p.Wait()
			expect(t, r, 9)
			if want := "ready\ngot " + test.arrives + "\n"; r.Stdout != want {
				t.Errorf("stdout %q, want %q", r.Stdout, want)
			}
		})
	}
}

func TestLabelsOfAnImageAreShown(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "labels:1", "--config.label=a=1", "--config.label=A=two words", "--config.label=esc=\x1b[2J")
	want := map[string]string{"a": "1", "A": "two words", "esc": "\x1b[2J"}
	b := testrig.Berth(t)
	pulled := b.Run("pull", "--json", image)
	expect(t, pulled, 0)
	listed := b.Run("images", "--json") // of the record, as it was read again
	expect(t, listed, 0)
	type record struct{ Labels map[string]string }
	var one record
	var all []record
	if err := errors.Join(json.Unmarshal([]byte(pulled.Stdout), &one), json.Unmarshal([]byte(listed.Stdout), &all)); err != nil {
		t.Fatal(err)
	}
	for _, r := range append(all, one) {
		for key, value := range want {
			if r.Labels[key] != value {
				t.Errorf("the label %s is %q, want %q", key, r.Labels[key], value)
			}
		}
	}
	if out := pulled.Stdout + listed.Stdout; len(all) != 1 || strings.Contains(out, "\x1b") {
		t.Errorf("what is printed is of more than one image, or a terminal acts upon it: %q", out)
	}
}
