package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/internal/mount/mounttest"
)

func TestOverlayOptions(t *testing.T) {
	lowers := []string{"/layers/sha256:2", `/layers/odd,\path`, "/layers/sha256:0"}
	for _, c := range []struct {
		name    string
		overlay Overlay
		options []Option
		byLinks string
	}{
		{"writable", Overlay{Lowers: lowers, Upper: `/work\dir/u,p`, Work: `/work\dir/w:k`, Links: "/links"},
			[]Option{{"lowerdir+", "/layers/sha256:2"}, {"lowerdir+", `/layers/odd,\path`}, {"lowerdir+", "/layers/sha256:0"},
				{"upperdir", `/work\\dir/u,p`}, {"workdir", `/work\\dir/w:k`}, {"volatile", ""}},
			"lowerdir=0:1:2,upperdir=3,workdir=4,volatile"},
		{"read-only", Overlay{Lowers: lowers[:2], Links: "/links"},
			[]Option{{"lowerdir+", "/layers/sha256:2"}, {"lowerdir+", `/layers/odd,\path`}},
			"lowerdir=0:1"},
		{"one layer", Overlay{Lowers: lowers[:1], Upper: "/u", Work: "/w"},
			[]Option{{"lowerdir+", "/layers/sha256:2"}, {"upperdir", "/u"}, {"workdir", "/w"}, {"volatile", ""}},
			"lowerdir=0,upperdir=1,workdir=2,volatile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.options, c.overlay.Options()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got := c.overlay.linkOptions(); got != c.byLinks {
				t.Errorf("by links: %s, want %s", got, c.byLinks)
			}
		})
	}
}

// mount(2) takes a page of options.
func TestOverlayOptionsByLinksFitInAPage(t *testing.T) {
	o := Overlay{Lowers: make([]string, 500), Upper: "/u", Work: "/w"}
	if size := len(o.linkOptions()); size >= 4096 {
		t.Errorf("they have %d bytes", size)
	}
}

// overlayAt makes the directories of an overlay of two layers, and where to mount it.
func overlayAt(t *testing.T, dir string) (o Overlay, target string) {
	t.Helper()
	o = Overlay{Lowers: []string{dir + "/top", dir + "/base"}, Upper: dir + "/upper", Work: dir + "/work", Links: dir + "/links"}
	target = dir + "/target"
	mkdirs(t, append(o.Lowers, o.Upper, o.Work, target)...)
	for _, lower := range o.Lowers {
		if err := os.WriteFile(lower+"/file", []byte(filepath.Base(lower)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return o, target
}

func TestOverlayAttach(t *testing.T) {
	for _, way := range []struct {
		name   string
		attach func(Overlay, string) error
	}{{"new mount calls", Overlay.Attach}, {"links", Overlay.AttachByLinks}} {
		for _, length := range []int{0, 255, 2000} {
			t.Run(fmt.Sprintf("%s, paths of %d bytes", way.name, length), func(t *testing.T) {
				mounttest.RequireRoot(t)
				base := mounttest.Dir(t)
				mounttest.Mount(t, "tmpfs", base, "")
				dir := base
				for len(dir) < length {
					dir += "/" + strings.Repeat("d", min(200, length-len(dir)))
				}
				o, target := overlayAt(t, dir)
				if err := way.attach(o, target); err != nil {
					t.Fatal(err)
				}
				if content, err := os.ReadFile(target + "/file"); string(content) != "top" {
					t.Errorf("the file has %q, %v", content, err)
				}
				if err := os.WriteFile(target+"/new", nil, 0o644); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(o.Upper + "/new"); err != nil {
					t.Errorf("what is written is not in the upper directory: %v", err)
				}
				if err := Detach(target); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestOverlayWithoutUpperIsReadOnly(t *testing.T) {
	mounttest.RequireRoot(t)
	base := mounttest.Dir(t)
	mounttest.Mount(t, "tmpfs", base, "")
	for name, attach := range map[string]func(Overlay, string) error{"new": Overlay.Attach, "links": Overlay.AttachByLinks} {
		o, target := overlayAt(t, filepath.Join(base, name))
		o.Upper, o.Work = "", ""
		if err := attach(o, target); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target+"/new", nil, 0o644); err == nil {
			t.Errorf("%s: a file can be made", name)
		}
	}
}

// The main thread of a process cannot end, and what it works in is busy: tests
// found a file system that could never be unmounted again, sometimes.
func TestAttachByLinksKeepsNothingBusy(t *testing.T) {
	mounttest.RequireRoot(t)
	base := mounttest.Dir(t)
	mounttest.Mount(t, "tmpfs", base, "")
	for i := range 20 {
		o, target := overlayAt(t, filepath.Join(base, fmt.Sprint(i)))
		if err := o.AttachByLinks(target); err != nil {
			t.Fatal(err)
		}
	}
	threads, err := filepath.Glob("/proc/self/task/*/cwd")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		if cwd, err := os.Readlink(thread); err == nil && strings.HasPrefix(cwd, base) {
			t.Errorf("%s is %s", thread, cwd)
		}
	}
}
