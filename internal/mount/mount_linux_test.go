package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

func TestDetach(t *testing.T) {
	mounttest.RequireRoot(t)
	below := func(t *testing.T, dir string, want ...string) {
		t.Helper()
		if points, err := mounttest.Points(dir); err != nil || !slices.Equal(points, want) {
			t.Errorf("mounted is %q, %v; want %q", points, err, want)
		}
	}
	t.Run("takes all that is stacked on the path, and below it", func(t *testing.T) {
		dir := mounttest.Dir(t)
		for range 3 {
			mounttest.Mount(t, "tmpfs", dir, "")
			mkdirs(t, dir+"/a")
			mounttest.Mount(t, "tmpfs", dir+"/a", "")
		}
		if err := Detach(dir); err != nil {
			t.Error(err)
		}
		below(t, dir)
		if err := Detach(dir); err != nil {
			t.Errorf("again: %v", err)
		}
	})
	t.Run("leaves open files to those who have them", func(t *testing.T) {
		dir := mounttest.Dir(t)
		mounttest.Mount(t, "tmpfs", dir, "")
		f, err := os.Create(dir + "/file")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := Detach(dir); err != nil {
			t.Error(err)
		}
		below(t, dir)
		if _, err := f.WriteString("x"); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir + "/file"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file is still seen: %v", err)
		}
	})
	t.Run("follows no link at the end of the path", func(t *testing.T) {
		dir := mounttest.Dir(t)
		mkdirs(t, dir+"/mounted")
		mounttest.Mount(t, "tmpfs", dir+"/mounted", "")
		if err := os.Symlink("mounted", dir+"/link"); err != nil {
			t.Fatal(err)
		}
		if err := Detach(dir + "/link"); err != nil {
			t.Error(err)
		}
		below(t, dir, dir+"/mounted")
	})
	t.Run("needs no mount, nor a file", func(t *testing.T) {
		dir := mounttest.Dir(t)
		if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		mkdirs(t, dir+"/dir")
		for _, path := range []string{"/dir", "/file", "/missing", "/missing/missing", "/file/missing"} {
			if err := Detach(dir + path); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("tells other errors", func(t *testing.T) {
		err := Detach("/" + strings.Repeat("x", 300))
		if !errors.Is(err, unix.ENAMETOOLONG) || !strings.Contains(err.Error(), "/xxx") {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestNewTellsWhatTheKernelSays(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mkdirs(t, dir+"/lower")
	for _, c := range []struct {
		name, fstype string
		options      []Option
		attr         Attr
		is           error
		says         string
	}{
		{"a bad value", "tmpfs", []Option{{"size", "much"}}, 0, unix.EINVAL, "Bad value for 'size'"},
		{"an unknown option", "tmpfs", []Option{{"colour", "red"}}, 0, unix.EINVAL, "colour"},
		{"an unknown flag", "overlay", []Option{{"colour", ""}}, 0, unix.EINVAL, "colour"},
		{"a missing layer", "overlay", []Option{{"lowerdir+", dir + "/missing"}}, 0, unix.ENOENT, "missing"},
		{"an upper directory without a work directory", "overlay", []Option{{"lowerdir+", dir + "/lower"}, {"upperdir", dir}}, 0, unix.EINVAL, "create overlay"},
		{"an unknown type", "nofs", nil, 0, unix.ENODEV, "nofs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := New(c.fstype, "source", c.options, c.attr)
			if err == nil {
				t.Fatal("there is no error", d.Close())
			}
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %q, want %q with %q", err, c.is, c.says)
			}
		})
	}
}

func TestNewIsWholeBeforeItIsSeen(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	d, err := New("tmpfs", "the source", []Option{{"mode", "711"}}, ReadOnly|NoSuid|NoDev|NoExec)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if points, err := mounttest.Points(dir); len(points) > 0 || err != nil {
		t.Errorf("before Attach there is %q, %v", points, err)
	}
	if err := d.Attach(dir); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if st.Flags&want != want {
		t.Errorf("the flags are %#x", st.Flags)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the root is %v, %v", info, err)
	}
}

func TestCloseDropsWhatIsNotAttached(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mounttest.Mount(t, "tmpfs", dir, "")
	d, err := Clone(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("the clone is in the way: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestClone(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mkdirs(t, dir+"/source", dir+"/alone", dir+"/withothers", dir+"/byfd")
	mounttest.Mount(t, "tmpfs", dir+"/source", "")
	mkdirs(t, dir+"/source/sub")
	mounttest.Mount(t, "tmpfs", dir+"/source/sub", "")
	for _, file := range []string{"/source/file", "/source/sub/file", "/target"} {
		if err := os.WriteFile(dir+file, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	attach := func(target string, recursive bool) {
		t.Helper()
		d, err := Clone(dir+"/source", recursive)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := errors.Join(d.Set(ReadOnly, recursive), d.Attach(target)); err != nil {
			t.Fatal(err)
		}
	}
	attach(dir+"/alone", false)
	attach(dir+"/withothers", true)
	for path, want := range map[string]error{
		"/alone/file": unix.EROFS, "/withothers/file": unix.EROFS, "/withothers/sub/file": unix.EROFS,
		"/alone/sub/file": unix.ENOENT, "/source/file": nil, "/source/sub/file": nil,
	} {
		f, err := os.OpenFile(dir+path, os.O_WRONLY, 0)
		f.Close()
		if !errors.Is(err, want) {
			t.Errorf("open %s for writing: %v, want %v", path, err, want)
		}
	}

	// A file, by descriptors only.
	source, err := os.Open(dir + "/source/file")
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.Open(dir + "/target")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	d, err := CloneFD(int(source.Fd()), false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.AttachAt(int(target.Fd())); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(dir + "/target"); string(content) != "/source/file" {
		t.Errorf("the target has %q, %v", content, err)
	}
	if _, err := Clone(dir+"/missing", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestAttachFollowsNoLinkAtTheEnd(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mkdirs(t, dir+"/target")
	if err := os.Symlink("target", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	d, err := New("tmpfs", "source", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Attach(dir + "/link"); err == nil {
		t.Error("there is no error")
	}
	if on, err := mounttest.Points(dir + "/target"); len(on) > 0 || err != nil {
		t.Errorf("the target of the link is a mount point: %v, %v", on, err)
	}
}

func TestMakePrivate(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mkdirs(t, dir+"/a", dir+"/b")
	mounttest.Mount(t, "tmpfs", dir+"/a", "")
	mkdirs(t, dir+"/a/sub")
	err := errors.Join(
		ShareFromHost(dir+"/a"),
		unix.Mount(dir+"/a", dir+"/b", "", unix.MS_BIND, ""),
		MakePrivate(dir+"/a"))
	if err != nil {
		t.Fatal(err)
	}
	mounttest.Mount(t, "tmpfs", dir+"/a/sub", "")
	if on, err := mounttest.Points(filepath.Join(dir, "b/sub")); len(on) > 0 || err != nil {
		t.Errorf("the mount propagates: %v, %v", on, err)
	}
	if err := MakePrivate(dir + "/missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
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
