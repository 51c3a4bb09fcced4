//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/launcher/plan"
)

func code(err error) int {
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return -1
}

func TestLookUp(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for path, mode := range map[string]os.FileMode{"one/tool": 0o755, "two/tool": 0o755, "one/plain": 0o644, "two/plain": 0o755, "one/denied": 0o644, "here": 0o755} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir("one/dir", 0o755), os.Symlink("absent", "one/dangling"), os.Symlink("tool", "one/link")); err != nil {
		t.Fatal(err)
	}
	both := "PATH=" + dir + "/one:" + dir + "/two"
	for _, c := range []struct {
		path string
		env  []string
		want string
		code int
	}{
		{"tool", []string{both}, dir + "/one/tool", 0},
		{"tool", []string{"PATH=/absent:" + dir + "/two"}, dir + "/two/tool", 0},
		{"plain", []string{both}, dir + "/two/plain", 0},
		{"link", []string{both}, dir + "/one/link", 0},
		{"denied", []string{both}, "", exitNotExecutable},
		{"dir", []string{both}, "", exitNotFound},
		{"dangling", []string{both}, "", exitNotFound},
		{"absent", []string{both}, "", exitNotFound},
		{"absent", nil, "", exitNotFound},
		{"tool", []string{"PATH=/absent", both}, dir + "/one/tool", 0}, // the last one counts
		{"here", []string{"PATH="}, "./here", 0},
		{"tool", []string{"PATH=:one"}, "one/tool", 0},
		// With a slash it is not looked up.
		{"/absent/tool", []string{both}, "/absent/tool", 0},
		{"./absent", []string{both}, "./absent", 0},
	} {
		t.Run(fmt.Sprint(c.path, c.env), func(t *testing.T) {
			got, err := lookUp(plan.Command{Path: c.path, Env: c.env})
			if c.code != 0 {
				if code(err) != c.code || !strings.Contains(err.Error(), c.path) {
					t.Errorf("%q, %v, want the code %d and the name", got, err, c.code)
				}
			} else if err != nil || got != c.want {
				t.Errorf("%q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestExecErrorHasTheCodeOfAShell(t *testing.T) {
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file string
		err  error
		code int
		text string
	}{
		{"/absent", unix.ENOENT, 127, "no such file"},
		{file, unix.ENOENT, 127, "interpreter"},
		{file, unix.EACCES, 126, "permission denied"},
		{file, unix.ENOEXEC, 126, "exec format"},
		{file, unix.EISDIR, 126, ""},
		{file, unix.ENOTDIR, 126, ""},
		{file, unix.ELOOP, 126, ""},
		{file, unix.ETXTBSY, 126, ""},
		{file, unix.E2BIG, 126, "too long"},
		{file, unix.ENOMEM, 125, ""},
		{file, unix.EAGAIN, 125, ""},
	} {
		err := execError(c.file, plan.Command{Path: "the name", UID: 1, GID: 2}, c.err)
		if code(err) != c.code || !errors.Is(err, c.err) {
			t.Errorf("%v: code %d, want %d", err, code(err), c.code)
		}
		for _, text := range []string{c.text, "the name", "1:2"} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("error %q does not say %q", err, text)
			}
		}
	}
}

func TestEnterDirectoryOutsideOfTheRootIsRefused(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chdir(here) })
	for _, bad := range []string{filepath.Join(t.TempDir(), "absent"), "/proc/self/fd/0", "/dev/null", ""} {
		if err := enterDirectory(bad); err == nil {
			t.Errorf("entered %q", bad)
		}
	}
	if err := enterDirectory(t.TempDir()); err != nil {
		t.Error(err)
	}
}
