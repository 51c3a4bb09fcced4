//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newLog(t *testing.T, maxSize int64, maxFiles int) (*boundedLog, string) {
	t.Helper()
	path := t.TempDir()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	l := &boundedLog{dir: dir, name: "stdout", maxSize: maxSize, maxFiles: maxFiles, uid: os.Getuid(), gid: os.Getgid()}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l.fd); dir.Close() })
	return l, path
}

func assertFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Errorf("there are %v, %v, want %q", entries, err, want)
	}
	for name, text := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
			t.Errorf("%s is %q, %v, want %q", name, got, err, text)
		}
	}
}

// Processes in the background have the pipe, too, and would have berth-init wait for ever.
func TestFinishWritesWhatWasSaid(t *testing.T) {
	for range 20 {
		log, dir := newLog(t, 1<<20, 2)
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		said := strings.Repeat("x", 60000)
		if _, err := writer.WriteString(said); err != nil {
			t.Fatal(err)
		}
		l := &logs{sources: []source{pipe{reader}}}
		l.copies.Go(func() { log.copy(pipe{reader}) })
		l.finish()
		assertFiles(t, dir, map[string]string{"stdout": said})
	}
}

func TestAFullFileIsRenamed(t *testing.T) {
	for name, c := range map[string]struct {
		maxFiles int
		writes   []string
		want     map[string]string
	}{
		"it fits":            {3, []string{"123456789\n"}, map[string]string{"stdout": "123456789\n"}},
		"the next line":      {3, []string{"1234567\n", "abc\n"}, map[string]string{"stdout": "abc\n", "stdout.1": "1234567\n"}},
		"many lines at once": {3, []string{"12\n34\n56\n78\n"}, map[string]string{"stdout": "78\n", "stdout.1": "12\n34\n56\n"}},
		"the oldest goes":    {2, []string{"1234567\n", "abcdefg\n", "xyz"}, map[string]string{"stdout": "xyz", "stdout.1": "abcdefg\n"}},
		"one file":           {1, []string{"1234567\n", "abc\n"}, map[string]string{"stdout": "abc\n"}},
		"a line too long":    {3, []string{"1234567890abcdefghij-"}, map[string]string{"stdout": "-", "stdout.1": "abcdefghij", "stdout.2": "1234567890"}},
		"a line in pieces":   {3, []string{"12345678", "9abc"}, map[string]string{"stdout": "9abc", "stdout.1": "12345678"}},
	} {
		t.Run(name, func(t *testing.T) {
			log, dir := newLog(t, 10, c.maxFiles)
			for _, w := range c.writes {
				log.write([]byte(w))
			}
			assertFiles(t, dir, c.want)
		})
	}
}

// The bound holds when the container is in the way, and nothing else is written to.
func TestAFileThatCannotBeRenamedBeginsAnew(t *testing.T) {
	log, dir := newLog(t, 10, 2)
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "stdout.1"), 0o700); err != nil {
		t.Fatal(err)
	}
	log.write([]byte("1234567\n"))
	log.write([]byte("abc\n"))
	if got, err := os.ReadFile(filepath.Join(dir, "stdout")); err != nil || string(got) != "abc\n" {
		t.Errorf("stdout is %q, %v", got, err)
	}
	if err := os.Remove(filepath.Join(dir, "stdout.1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "stdout")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(canary, filepath.Join(dir, "stdout")); err != nil {
		t.Fatal(err)
	}
	log.write([]byte("1234567\n"))
	log.write([]byte("def\n"))
	assertFiles(t, dir, map[string]string{"stdout": "def\n", "stdout.1": "1234567\n"})
	if got, err := os.ReadFile(canary); err != nil || string(got) != "canary" {
		t.Errorf("the canary is %q, %v", got, err)
	}
}
