package pty

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// open opens a terminal of this host.
func open(t *testing.T) (master, peer *os.File) {
	t.Helper()
	master, peer, err := Open(unix.AT_FDCWD, "/dev/pts/ptmx", Size{Rows: 3, Columns: 4}, uint32(os.Getuid()))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) {
		t.Skipf("no terminals for this user: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); peer.Close() })
	return master, peer
}

// handOver sends the master as berth-init does.
func handOver(t *testing.T, master *os.File) *Master {
	t.Helper()
	receiver, sender, err := Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	if err := errors.Join(Send(sender, master), master.Close(), sender.Close()); err != nil {
		t.Fatal(err)
	}
	m, err := Receive(receiver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if _, err := Receive(receiver); !errors.Is(err, io.EOF) {
		t.Errorf("a second master: %v", err)
	}
	return m
}

func TestBothEnds(t *testing.T) {
	master, peer := open(t)
	if size, err := unix.IoctlGetWinsize(int(peer.Fd()), unix.TIOCGWINSZ); err != nil || size.Row != 3 || size.Col != 4 {
		t.Errorf("size %+v, %v", size, err)
	}
	m := handOver(t, master)
	if err := m.Resize(Size{Rows: 5, Columns: 6}); err != nil {
		t.Error(err)
	}
	if size, err := unix.IoctlGetWinsize(int(peer.Fd()), unix.TIOCGWINSZ); err != nil || size.Row != 5 || size.Col != 6 {
		t.Errorf("size %+v, %v", size, err)
	}
	if _, err := io.WriteString(peer, "last words"); err != nil {
		t.Fatal(err)
	}
	peer.Close()
	if all, err := io.ReadAll(m); err != nil || string(all) != "last words" {
		t.Errorf("read %q, %v", all, err)
	}
}

// Somebody else may have got the other end from the container.
func TestFinishDoesNotWaitForWhoHasTheOtherEnd(t *testing.T) {
	master, peer := open(t)
	m := handOver(t, master)
	want := strings.Repeat("x", 3000)
	if _, err := io.WriteString(peer, want); err != nil {
		t.Fatal(err)
	}
	m.Finish()
	if all, err := io.ReadAll(m); err != nil || string(all) != want {
		t.Errorf("read %d bytes, %v", len(all), err)
	}
}

func TestAReadThatWaitsEndsWithFinish(t *testing.T) {
	master, _ := open(t)
	m := handOver(t, master)
	ended := make(chan error, 1)
	go func() { _, err := m.Read(make([]byte, 1)); ended <- err }()
	m.Finish()
	if err := <-ended; err != io.EOF {
		t.Errorf("error %v", err)
	}
}

// What is not the multiplexer of a devpts could be anything (CVE-2025-52565).
func TestOnlyAMultiplexerIsOpened(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/dev/pts/ptmx", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"/link", "/file", "/absent"} {
		if master, _, err := Open(int(root.Fd()), name, Size{}, 0); err == nil {
			master.Close()
			t.Errorf("%s was opened", name)
		}
	}
}
