package cgroup

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/container"
)

// testDir returns a temporary directory with the files given.
func testDir(t *testing.T, version Version, files map[string]string) Dir {
	t.Helper()
	path := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return DirAt(path, version)
}

func TestDirWriteThenRead(t *testing.T) {
	dir := testDir(t, V2, map[string]string{"memory.max": "max\n"})
	for _, value := range []string{"1073741824", "4096", ""} {
		if err := dir.Write("memory.max", value); err != nil {
			t.Fatal(err)
		}
		if got, err := dir.Read("memory.max"); err != nil || got != value {
			t.Errorf("wrote %q, read %q, %v", value, got, err)
		}
	}
}

func TestDirReadsWhatIsLongerThanABuffer(t *testing.T) {
	want := strings.Repeat("12345\n", 5000)
	dir := testDir(t, V1, map[string]string{"tasks": want})
	if got, err := dir.Read("tasks"); err != nil || got+"\n" != want {
		t.Errorf("read %d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestDirReadUint(t *testing.T) {
	for content, want := range map[string]uint64{
		"0\n":                    0,
		"209715200\n":            209715200,
		"max\n":                  math.MaxUint64,
		"-1\n":                   math.MaxUint64,
		"18446744073709551615\n": math.MaxUint64,
	} {
		dir := testDir(t, V2, map[string]string{"f": content})
		if got, err := dir.ReadUint("f"); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", content, got, err, want)
		}
	}
	for _, content := range []string{"", "max 100000\n", "-2\n", "1\n2\n", "18446744073709551616\n"} {
		dir := testDir(t, V2, map[string]string{"f": content})
		if got, err := dir.ReadUint("f"); err == nil || !strings.Contains(err.Error(), dir.Path()+"/f") {
			t.Errorf("%q: got %d, %v; want an error that names the file", content, got, err)
		}
	}
}

func TestDirReadKeyed(t *testing.T) {
	dir := testDir(t, V1, map[string]string{
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n",
		"empty":              "",
		"numa":               "total=5 N0=5\n",
		"nested":             "8:0 rbytes=1 wbytes=2\n",
		"short":              "key\n",
	})
	got, err := dir.ReadKeyed("memory.oom_control")
	want := map[string]uint64{"oom_kill_disable": 0, "under_oom": 1, "oom_kill": 3}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := dir.ReadKeyed("empty"); err != nil || len(got) != 0 {
		t.Errorf("empty file: got %v, %v", got, err)
	}
	for _, file := range []string{"numa", "nested", "short"} {
		if got, err := dir.ReadKeyed(file); err == nil {
			t.Errorf("%s: got %v, want an error", file, got)
		}
	}
}

func TestDirErrorsTellAMissingFeatureFromAMissingGroup(t *testing.T) {
	dir := testDir(t, V2, nil)
	for file, needs := range map[string]string{
		"cgroup.kill":     "Linux 5.14",
		"cpu.max":         "CONFIG_CFS_BANDWIDTH",
		"memory.swap.max": "swapaccount=1",
		"io.pressure":     "CONFIG_PSI",
		"pids.max":        "the pids controller of cgroup v2 has no such file",
	} {
		_, readErr := dir.Read(file)
		for _, err := range []error{dir.Write(file, "1"), readErr} {
			if !errors.Is(err, container.ErrNotSupported) || !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: got %v, want class ErrNotSupported and the errno", file, err)
			}
			for _, want := range []string{filepath.Join(dir.Path(), file), needs} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %q lacks %q", file, err, want)
				}
			}
		}
		if _, err := os.Lstat(filepath.Join(dir.Path(), file)); err == nil {
			t.Errorf("%s was made by writing it", file)
		}
	}

	ended := DirAt(filepath.Join(dir.Path(), "ended"), V1)
	for _, err := range []error{ended.Write("memory.max", "1"), second(ended.ReadUint("memory.max")), second(ended.ReadKeyed("memory.stat"))} {
		if !errors.Is(err, container.ErrNotFound) || errors.Is(err, container.ErrNotSupported) {
			t.Errorf("missing group: got %v, want class ErrNotFound", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
