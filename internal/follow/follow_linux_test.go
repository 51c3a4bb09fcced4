package follow

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

// fixture is a log, its directory and whoever ends it.
type fixture struct {
	*testing.T
	hub   Hub
	dir   string
	ended chan struct{}
}

func newFixture(t *testing.T) *fixture {
	return &fixture{T: t, dir: t.TempDir(), ended: make(chan struct{})}
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) append(name, text string) {
	f.Helper()
	file, err := os.OpenFile(f.path(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = file.WriteString(text)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		f.Error(err)
	}
}

func (f *fixture) rename(from, to string) {
	f.Helper()
	if err := os.Rename(f.path(from), f.path(to)); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) open(files int, atEnd bool) *Reader {
	f.Helper()
	r, err := f.hub.Open(Log{Dir: f.dir, Name: "log", Files: files, Ended: f.ended}, atEnd)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			f.Error(err)
		}
	})
	return r
}

// comes reads a text that must be the next.
func (f *fixture) comes(r io.Reader, want string) {
	f.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		f.Fatalf("read %q, %v, want %q", got[:n], err, want)
	}
}

// ends reads a text, and an error in its end.
func (f *fixture) ends(r io.Reader, want string, wantErr error) {
	f.Helper()
	got, err := io.ReadAll(r)
	if string(got) != want || !errors.Is(err, wantErr) {
		f.Errorf("read %q, %v, want %q, %v", got, err, want, wantErr)
	}
}

func TestWhatIsWrittenComes(t *testing.T) {
	f := newFixture(t)
	f.append("log", "before ")
	all, now := f.open(0, false), f.open(0, true)
	f.append("log", "after")
	f.comes(now, "after")
	f.comes(all, "before after")
	go f.append("log", " later") // to one who waits
	f.comes(now, " later")
	close(f.ended)
	f.ends(now, "", nil)
	f.ends(all, " later", nil)
}

func TestTheFilesOfALogAreReadInTheirOrder(t *testing.T) {
	f := newFixture(t)
	f.append("log.2", "a")
	f.append("log.1", "b")
	f.append("log", "c")
	f.append("log.3", "not of the log")
	r := f.open(3, false)
	f.comes(r, "abc")
	for range 3 {
		for range 2 { // it may be two files behind
			f.append("log", "d")
			f.rename("log.1", "log.2")
			f.rename("log", "log.1")
			f.append("log", "e")
		}
		f.comes(r, "dede")
	}
	close(f.ended)
	f.ends(r, "", nil)
}

// A file is removed whose reader had not come to it.
func TestALossIsSaid(t *testing.T) {
	f := newFixture(t)
	f.append("log", "first")
	r := f.open(2, false)
	for _, text := range []string{"lost", "second", "third"} {
		f.rename("log", "log.1")
		f.append("log", text)
	}
	close(f.ended)
	f.ends(r, "first", ErrLost)
	f.ends(r, "secondthird", nil)
}

func TestACutIsSaid(t *testing.T) {
	f := newFixture(t)
	f.append("log", "0123456789")
	r := f.open(0, false)
	f.comes(r, "0123456789")
	if err := os.Truncate(f.path("log"), 0); err != nil {
		t.Fatal(err)
	}
	f.append("log", "new")
	close(f.ended)
	f.ends(r, "", ErrLost)
	f.ends(r, "new", nil)
}

// Whoever writes renames without waiting for readers, who have to be quick, or to say that
// they were not.
func TestWhoReadsWhileFilesAreRenamed(t *testing.T) {
	f := newFixture(t)
	f.append("log", "")
	r := f.open(3, false)
	const count = 500
	go func() {
		defer close(f.ended)
		for i := range count {
			f.append("log", string(rune('a'+i%26)))
			if i%3 == 0 {
				_ = os.Rename(f.path("log.1"), f.path("log.2"))
				_ = os.Rename(f.path("log"), f.path("log.1"))
				f.append("log", "")
			}
		}
	}()
	var lost int
	next := -1 // any
	for buffer := make([]byte, 64); ; {
		n, err := r.Read(buffer)
		for _, c := range buffer[:n] {
			if next >= 0 && int(c-'a') != next%26 {
				t.Fatalf("%q comes after %q, and nothing was said to be lost", c, rune('a'+(next+25)%26))
			}
			next = int(c-'a') + 1
		}
		if errors.Is(err, ErrLost) {
			lost++
			next = -1
			continue
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := (count - 1) % 26; (next+25)%26 != want {
		t.Errorf("the last is %q, want %q", rune('a'+(next+25)%26), rune('a'+want))
	}
	t.Logf("%d losses", lost)
}

func TestWhatIsNoFileIsNotOpened(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"a link":      func(path string) error { return os.Symlink(canary, path) },
		"a pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a socket": func(path string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return errors.Join(err, unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd))
		},
	} {
		f := newFixture(t)
		if err := put(f.path("log")); err != nil {
			t.Fatal(name, err)
		}
		if _, err := f.hub.Open(Log{Dir: f.dir, Name: "log", Ended: f.ended}, false); !errors.Is(err, container.ErrFailedPrecondition) {
			t.Errorf("%s: %v", name, err)
		}
		// Nor when it comes in the place of the next file.
		f.append("log.1", "text")
		r := f.open(2, false)
		f.comes(r, "text")
		close(f.ended)
		f.ends(r, "", nil)
	}
	f := newFixture(t)
	if _, err := f.hub.Open(Log{Dir: f.dir, Name: "log", Ended: f.ended}, false); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := f.hub.Open(Log{Dir: f.path("none"), Name: "log", Ended: f.ended}, false); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("nowhere: %v", err)
	}
}

func TestWhoWaitsIsWokenByCloseAndByTheEnd(t *testing.T) {
	f := newFixture(t)
	f.append("log", "")
	woken := make(chan error, 2)
	wait := func(r *Reader) { _, err := r.Read(make([]byte, 1)); woken <- err }
	closed, r := f.open(0, false), f.open(0, false)
	go wait(closed)
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	if err := <-woken; !errors.Is(err, os.ErrClosed) {
		t.Errorf("by Close: %v", err)
	}
	go wait(r)
	close(f.ended)
	if err := <-woken; !errors.Is(err, io.EOF) {
		t.Errorf("by the end: %v", err)
	}
}

// All of it goes with the last reader, and comes again with the next.
func TestNothingStays(t *testing.T) {
	f := newFixture(t)
	f.append("log", "text")
	before := runtime.NumGoroutine()
	for range 3 {
		var readers []*Reader
		for range 100 {
			readers = append(readers, f.open(2, false))
		}
		f.append("log", "x")
		for _, r := range readers {
			f.comes(r, "text")
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if f.hub.notify != nil || len(f.hub.watches) > 0 {
			t.Errorf("%d watches are left", len(f.hub.watches))
		}
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(target, f.dir) || strings.Contains(target, "inotify") {
			t.Errorf("%s is open", target)
		}
	}
}
