//go:build linux

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
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
