package testrig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestLoopFS(t *testing.T) {
	RequireRoot(t)
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			tmp := TempDir(t)
			t.Setenv("TMPDIR", tmp)
			NoLeaks(t, Scope{Files: []string{tmp}, Only: []string{tmp}})
			r := record(t, func(tb testing.TB) {
				dir := LoopFS(tb, fstype, 16)
				writer{tb, dir}.file("file", 0o644, "content")
				mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
				if err != nil || len(mounts) != 1 || mounts[0].FSType != fstype {
					tb.Errorf("mounted is %+v (%v)", mounts, err)
				}
				tb.Fatal("the test fails here")
			})
			if r.skipped != "" {
				t.Skip(r.skipped)
			}
			if len(r.errors) != 1 {
				t.Errorf("errors: %q", r.errors)
			}
		})
	}
}

func TestLoopFSInUseIsAnErrorAndStillGoes(t *testing.T) {
	RequireRoot(t)
	tmp := TempDir(t)
	t.Setenv("TMPDIR", tmp)
	NoLeaks(t, Scope{Files: []string{tmp}, Only: []string{tmp}})
	var open *os.File
	r := record(t, func(tb testing.TB) {
		var err error
		open, err = os.Create(filepath.Join(LoopFS(tb, "ext4", 16), "open"))
		if err != nil {
			tb.Fatal(err)
		}
	})
	if r.skipped != "" {
		t.Skip(r.skipped)
	}
	defer open.Close()
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "still uses it") {
		t.Errorf("errors: %q", r.errors)
	}
}

func TestLoopFSIsSmall(t *testing.T) {
	dir := LoopFS(t, "ext4", 16)
	err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 17<<20), 0o644)
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("17 MB into 16: %v", err)
	}
}
