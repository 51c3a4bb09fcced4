package testrig

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// writer fills a root directory for an image builder; paths are relative to it.
type writer struct {
	tb   testing.TB
	root string
}

func (w writer) path(name string) string { return filepath.Join(w.root, name) }

func (w writer) check(what, name string, err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatalf("%s %q: %v", what, name, err)
	}
}

// mode sets all twelve bits, whatever the umask.
func (w writer) mode(name string, mode uint32) {
	w.tb.Helper()
	w.check("chmod", name, unix.Chmod(w.path(name), mode))
}

func (w writer) own(name string, uid, gid int) {
	w.tb.Helper()
	w.check("chown", name, unix.Lchown(w.path(name), uid, gid))
}

func (w writer) dir(name string, mode uint32) {
	w.tb.Helper()
	w.check("mkdir", name, os.MkdirAll(w.path(name), 0o755))
	w.mode(name, mode)
}

func (w writer) file(name string, mode uint32, content string) {
	w.tb.Helper()
	w.check("write", name, os.WriteFile(w.path(name), []byte(content), 0o600))
	w.mode(name, mode)
}

func (w writer) link(old, name string) {
	w.tb.Helper()
	w.check("link", name, os.Link(w.path(old), w.path(name)))
}

func (w writer) symlink(target, name string) {
	w.tb.Helper()
	w.check("symlink", name, os.Symlink(target, w.path(name)))
}

func (w writer) node(name string, mode uint32, major, minor uint32) {
	w.tb.Helper()
	w.check("mknod", name, unix.Mknod(w.path(name), mode, int(unix.Mkdev(major, minor))))
	w.mode(name, mode&0o7777)
}

func (w writer) xattr(name, attribute, value string) {
	w.tb.Helper()
	w.check("set "+attribute+" of", name, unix.Lsetxattr(w.path(name), attribute, []byte(value), 0))
}

func (w writer) time(name string, t time.Time) {
	w.tb.Helper()
	times := []unix.Timespec{unix.NsecToTimespec(t.UnixNano()), unix.NsecToTimespec(t.UnixNano())}
	w.check("set the time of", name, unix.UtimesNanoAt(unix.AT_FDCWD, w.path(name), times, unix.AT_SYMLINK_NOFOLLOW))
}

func (w writer) remove(name string) {
	w.tb.Helper()
	_, err := os.Lstat(w.path(name))
	w.check("find", name, err) // RemoveAll would be content with a misspelling
	w.check("remove", name, os.RemoveAll(w.path(name)))
}
