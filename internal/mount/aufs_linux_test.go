package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

// A call takes a page of options, and the kernel another page of what it makes of them.
func TestAufsOptionsFitInAPage(t *testing.T) {
	for lowers, calls := range map[int]int{1: 1, 63: 1, 64: 2, 127: 2, 128: 3, 500: 8} {
		got := Aufs{Lowers: make([]string, lowers)}.Options()
		if len(got) != calls {
			t.Errorf("%d branches below take %d calls, want %d", lowers, len(got), calls)
		}
		next := 0
		for _, options := range got {
			branches := regexp.MustCompile(`\w+=(rw|ro\+wh)`).FindAllString(options, -1)
			if len(options) >= 4096 || len(branches) > branchesAtOnce {
				t.Errorf("one call has %d bytes and %d branches", len(options), len(branches))
			}
			for _, b := range branches {
				if want := fmt.Sprintf("%s=%s", linkName(next), map[bool]string{true: "rw", false: "ro+wh"}[next == 0]); b != want {
					t.Fatalf("branch %d is %s, want %s", next, b, want)
				}
				next++
			}
		}
		if next != lowers+1 {
			t.Errorf("%d branches are named, want %d", next, lowers+1)
		}
	}
	want := []string{"dirperm1,acl,br=0=rw:1=ro+wh", "append=1s=ro+wh,append=1t=ro+wh"}
	got := Aufs{Lowers: make([]string, 65)}.Options()
	if first := got[0][:len(want[0])]; first != want[0] || got[1] != want[1] {
		t.Errorf("they are %q... and %q", first, got[1])
	}
}

func TestKnows(t *testing.T) {
	mounttest.RequireRoot(t)
	if err := Knows("tmpfs"); err != nil {
		t.Error(err)
	}
	if err := Knows("no-such-file-system"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("the error is %v", err)
	}
}

func TestAufsIsMountedOrUnknown(t *testing.T) {
	mounttest.RequireRoot(t)
	base := mounttest.Dir(t)
	mounttest.Mount(t, "tmpfs", base, "")
	a := Aufs{Writable: base + "/writable", Lowers: []string{base + "/lower"}, Links: base + "/links"}
	mkdirs(t, a.Writable, a.Lowers[0], filepath.Join(a.Lowers[0], "d"), base+"/target")
	err := a.Attach(base + "/target")
	if known := Knows("aufs"); (known == nil) != (err == nil) || err != nil && !errors.Is(err, unix.ENODEV) {
		t.Errorf("the kernel says %v, the mount %v", known, err)
	}
}
