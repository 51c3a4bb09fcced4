package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/container"
)

// keptDir returns a directory whose files are kept, and one of these.
func keptDir(t *testing.T, g *Group) (_ Dir, file string) {
	t.Helper()
	dir, err := g.Dir("freezer")
	if err != nil {
		t.Fatal(err)
	}
	if dir.Version() == V2 {
		return dir.Kept(), freezerV2.file
	}
	return dir.Kept(), freezerV1.file
}

// openIn counts the files that this process has open below a directory.
func openIn(t *testing.T, dir Dir) (count int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, dir.Path()+"/") {
			count++
		}
	}
	return count
}

func TestKeptFilesSayWhatIsNow(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, host, "freezer")
			dir, file := keptDir(t, g)
			before, err := dir.Read(file)
			if err != nil {
				t.Fatal(err)
			}
			frozen := map[Version]string{V1: freezerV1.freeze, V2: freezerV2.freeze}[dir.Version()]
			if err := dir.Write(file, frozen); err != nil {
				t.Fatal(err)
			}
			if after, err := dir.Read(file); err != nil || after != frozen {
				t.Errorf("%q, %v was read after %q was written over %q", after, err, frozen, before)
			}
			if n := openIn(t, dir); n != 1 {
				t.Errorf("%d files are open, want the one that was read", n)
			}
		})
	}
}

func TestKeptFilesGoWithTheGroup(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			before := keptFiles.Load()
			g := newGroup(t, host, "freezer")
			dir, file := keptDir(t, g)
			if _, err := dir.Read(file); err != nil {
				t.Fatal(err)
			}
			if err := g.Remove(contextFor(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := dir.Read(file); !errors.Is(err, container.ErrNotFound) {
					t.Errorf("error %v, want not found", err)
				}
			}
			if n, counted := openIn(t, dir), keptFiles.Load()-before; n != 0 || counted != 0 {
				t.Errorf("%d files are open, %d are counted", n, counted)
			}
		})
	}
}

func TestKeptFilesOfARemovedCgroupAreNotTrusted(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, host, "freezer")
			dir, file := keptDir(t, g)
			if _, err := dir.Read(file); err != nil {
				t.Fatal(err)
			}
			if err := removeAt(-1, dir.Path()); err != nil { // by somebody else
				t.Fatal(err)
			}
			if _, err := dir.Read(file); !errors.Is(err, container.ErrNotFound) {
				t.Errorf("error %v, want not found", err)
			}
		})
	}
}

func TestNobodyReadsKeptFilesForAWhile(t *testing.T) {
	host := realHost(t)
	g := newGroup(t, host, "freezer")
	dir, file := keptDir(t, g)
	synctest.Test(t, func(t *testing.T) {
		defer g.kept.end() // with its timer, which is of this bubble
		for range 2 {
			for range 3 { // in use
				if _, err := dir.Read(file); err != nil {
					t.Fatal(err)
				}
				time.Sleep(keptFor / 2)
			}
			if n := openIn(t, dir); n != 1 {
				t.Errorf("%d files are open that are in use, want 1", n)
			}
			time.Sleep(keptFor)
			synctest.Wait()
			if n := openIn(t, dir); n != 0 {
				t.Errorf("%d files are open that nobody reads", n)
			}
		}
	})
}

func TestNoMoreFilesAreKeptThanTheBound(t *testing.T) {
	known := mostKept
	t.Cleanup(func() { mostKept = known })
	mostKept = func() int64 { return 1 }
	g := newGroup(t, realHost(t), "freezer")
	dir, file := keptDir(t, g)
	for _, name := range []string{file, "cgroup.procs", "tasks"} {
		if _, err := dir.Read(name); err != nil && !errors.Is(err, container.ErrNotSupported) {
			t.Errorf("read %s: %v", name, err)
		}
	}
	if n := openIn(t, dir); n != 1 {
		t.Errorf("%d files are open, want the first", n)
	}
}
