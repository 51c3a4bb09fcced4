//go:build linux

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

func TestAProgramThatEmbedsBerth(t *testing.T) {
	testrig.RequireRoot(t)
	source, err := os.ReadFile("../../examples/embed/main.go")
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(source, []byte("\n")); lines >= 60 {
		t.Errorf("the example has %d lines: what makes berth hard to embed?", lines)
	}
	program := filepath.Join(testrig.TempDir(t), "embed")
	if out, err := exec.Command("go", "build", "-o", program, "../../examples/embed").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{image, "sh", "-c", "echo hello; exit 7"}, "hello\nexit status 7\n"},
		{[]string{image, "true"}, "exit status 0\n"},
	} {
		cmd := exec.Command(program, append([]string{
			"-launcher_dir", filepath.Dir(b.Path), "-work_dir", b.WorkDir, "-runtime_dir", b.RuntimeDir, "-image"}, c.args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if out, err := cmd.Output(); err != nil || string(out) != c.want || stderr.Len() > 0 {
			t.Errorf("%q: %v, stdout %q, stderr %q", c.args[1:], err, out, stderr.String())
		}
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestTheOperatorAPIWithCurl(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	agent := startAgent(t, b)
	out, err := exec.Command("../../examples/operator-api.sh", filepath.Join(b.RuntimeDir, "agent.sock"), image).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const want = `launch
containers: RUNNING
attach
wait: 0
files
	stderr
	stdout
hello, world
kill
wait: 9
prune
images: {"type":"GET_IMAGES","get_images":{}}
`
	if _, rest, _ := strings.Cut(string(out), "\n"); rest != want {
		t.Errorf("it says\n%swant\n%s", rest, want)
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNothing(t, b)
}
