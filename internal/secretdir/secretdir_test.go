package secretdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

const hidden = "hunter2\n\x00"

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(hidden), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("good", 0o600)
	write("set/key", 0o400)
	write("open", 0o644)
	write("big", 0o600)
	if err := errors.Join(os.Truncate(filepath.Join(dir, "big"), maxSize+1), os.Symlink("good", filepath.Join(dir, "link")), os.Symlink("/etc/shadow", filepath.Join(dir, "out")), syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ref := func(name string, key ...string) *v1.Secret_Reference {
		r := &v1.Secret_Reference{Name: &name}
		if len(key) > 0 {
			r.Key = proto.String(key[0])
		}
		return r
	}
	for _, r := range []*v1.Secret_Reference{ref("good"), ref("set", "key"), ref("link")} {
		if data, err := Dir(dir).Resolve(t.Context(), r); string(data) != hidden || err != nil {
			t.Errorf("%v: %q, %v", r, data, err)
		}
	}
	for _, r := range []*v1.Secret_Reference{ref("open"), ref("absent"), ref("set"), ref("set", "absent"), ref(""), ref("..", "x"), ref("good/../good"), ref("/good"), ref("big"), ref("out"), ref("fifo"), ref(".", "good")} {
		data, err := Dir(dir).Resolve(t.Context(), r)
		if data != nil || !errors.Is(err, container.ErrInvalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %q, %v", r, data, err)
		}
	}
	if _, err := Dir(dir+"/absent").Resolve(t.Context(), ref("good")); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("no directory: %v", err)
	}
}
