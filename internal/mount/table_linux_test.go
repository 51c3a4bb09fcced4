package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

func TestMountPoints(t *testing.T) {
	var layers strings.Builder
	for i := range 500 {
		fmt.Fprintf(&layers, ",lowerdir+=/%s/%d", strings.Repeat("x", 4000), i)
	}
	table := `22 28 0:20 / /sys rw,relatime shared:7 - sysfs sysfs rw
28 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/sda1 rw
29 28 0:21 /sub/dir /with\040blank ro - tmpfs tm\040pfs rw
30 28 0:21 / /tab\011newline\012backslash\134number\043 rw - tmpfs tmpfs rw
31 28 0:21 / /\134040 rw - tmpfs tmpfs rw
32 28 0:21 / /` + "\xff\xfe" + ` rw - tmpfs tmpfs rw
33 28 0:30 / /many rw - overlay berth rw` + layers.String() + `
34 28 0:21 / /gone//deleted rw - tmpfs tmpfs rw
35 28 0:21 / /many rw - tmpfs tmpfs rw
`
	want := []string{"/sys", "/", "/with blank", "/tab\tnewline\nbackslash\\number#", `/\040`, "/\xff\xfe", "/many", "/gone//deleted", "/many"}
	got, err := mountPoints(strings.NewReader(table))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if got, err := mountPoints(strings.NewReader("")); got != nil || err != nil {
		t.Errorf("of an empty table: %q, %v", got, err)
	}
	broken := errors.New("broken")
	if got, err := mountPoints(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("of a broken one: %q, %v", got, err)
	}
}

func TestUnescape(t *testing.T) {
	for escaped, want := range map[string]string{
		"": "", "plain": "plain", `\040`: " ", `a\040\011b`: "a \tb", `\134`: `\`, `\134134`: `\134`, `\043`: "#",
		`\`: `\`, `\0`: `\0`, `\04`: `\04`, `\999`: `\999`, `\777`: `\777`, `x\04`: `x\04`, "\xff": "\xff", `\377`: "\xff",
	} {
		if got := unescape(escaped); got != want {
			t.Errorf("unescape(%q) = %q, want %q", escaped, got, want)
		}
	}
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBelow(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	odd := filepath.Join(dir, "in", "\\ #\t\n\xff,:\\040")
	mkdirs(t, dir+"/in/a", dir+"/in/ab", dir+"/inside", odd)
	mounttest.Mount(t, "tmpfs", dir+"/in", "")
	mkdirs(t, dir+"/in/a", odd)
	for _, point := range []string{"/in/a", "/in/a", "/inside"} {
		mounttest.Mount(t, "tmpfs", dir+point, "")
	}
	mounttest.Mount(t, "tmpfs", odd, "")
	for below, want := range map[string][]string{
		"/in":      {dir + "/in", dir + "/in/a", dir + "/in/a", odd},
		"/in/a":    {dir + "/in/a", dir + "/in/a"},
		"/inside":  {dir + "/inside"},
		"/missing": nil,
	} {
		got, err := Below(dir + below)
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("below %s: %v, -want +got:\n%s", below, err, diff)
		}
	}
	if all, err := Below("/"); err != nil || !slices.Contains(all, odd) || !slices.Contains(all, "/") {
		t.Errorf("below /: %q, %v", all, err)
	}
}

// A mount that was moved stands in the table where it was made, so that a mount may
// come before the one that it lies on, and hide one that comes after.
func TestDetachBelow(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mkdirs(t, dir+"/in", dir+"/elsewhere", dir+"/outside")
	mounttest.Mount(t, "tmpfs", dir+"/elsewhere", "")
	mkdirs(t, dir+"/elsewhere/a")
	mounttest.Mount(t, "tmpfs", dir+"/in", "")
	mkdirs(t, dir+"/in/a", dir+"/in/b")
	mounttest.Mount(t, "tmpfs", dir+"/in/a", "")
	mounttest.Mount(t, "tmpfs", dir+"/in/b", "")
	if err := unix.Mount(dir+"/elsewhere", dir+"/in", "", unix.MS_MOVE, ""); err != nil {
		t.Fatal(err)
	}
	mounttest.Mount(t, "tmpfs", dir+"/in/a", "")
	mounttest.Mount(t, "tmpfs", dir+"/outside", "")
	if err := DetachBelow(dir + "/in"); err != nil {
		t.Error(err)
	}
	if left, err := Below(dir); err != nil || !slices.Equal(left, []string{dir + "/outside"}) {
		t.Errorf("left is %q, %v", left, err)
	}
	if err := DetachBelow(dir + "/in"); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := DetachBelow(dir + "/missing"); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}
