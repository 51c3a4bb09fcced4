package mount

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

// writeErofs writes an index and its data into dir, with a file that has the content.
func writeErofs(t *testing.T, dir, content string) EROFS {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	mkdirs(t, dir, tree)
	if err := os.WriteFile(tree+"/file", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	e := EROFS{Index: filepath.Join(dir, "index"), Device: filepath.Join(dir, "data")}
	// By short names, and there: the tool knows no long paths.
	cmd := exec.Command("mkfs.erofs", "--quiet", "--chunksize=4096", "--blobdev=data", "index", tree)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v: %s", err, out)
	}
	return e
}

func TestErofs(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	content := strings.Repeat("content", 10_000)
	short := writeErofs(t, dir+"/a", content)
	long := writeErofs(t, dir+"/"+strings.Repeat("n", 200)+"/"+strings.Repeat("n", 200), content)
	target := dir + "/target"
	mkdirs(t, target)
	for how, make := range map[string]func() (*Detached, error){
		"files": short.Mount, "long paths": long.Mount, "loop devices": short.MountByLoop, "loop devices of long paths": long.MountByLoop,
	} {
		t.Run(how, func(t *testing.T) {
			if is, err := IsRoot(target); is || err != nil {
				t.Errorf("before: %v, %v", is, err)
			}
			d, err := make()
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Attach(target), d.Close()); err != nil {
				t.Fatal(err)
			}
			if is, err := IsRoot(target); !is || err != nil {
				t.Errorf("mounted: %v, %v", is, err)
			}
			if got, err := os.ReadFile(target + "/file"); string(got) != content {
				t.Errorf("the file has %d bytes, %v", len(got), err)
			}
			if err := os.WriteFile(target+"/new", nil, 0o600); !errors.Is(err, unix.EROFS) {
				t.Errorf("to write is %v", err)
			}
			if err := unix.Unmount(target, 0); err != nil {
				t.Error(err)
			}
		})
	}
}
