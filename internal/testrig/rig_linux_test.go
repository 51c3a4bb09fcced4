package testrig

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is a test whose failures are what a test of the rig looks at.
type recorder struct {
	testing.TB
	cleanups []func()
	errors   []string
	skipped  string
	failed   bool // with Fatal
}

// record runs do as a test of its own would run, the cleanups included.
func record(t *testing.T, do func(tb testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	r.run(func() { do(r) })
	for len(r.cleanups) > 0 {
		last := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		r.run(last)
	}
	return r
}

// run is left by Fatal and Skip, which end their goroutine.
func (r *recorder) run(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
}

func (r *recorder) leave() { runtime.Goexit() }

func (r *recorder) Helper()                           {}
func (r *recorder) Cleanup(f func())                  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any)                 { r.errors = append(r.errors, fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); r.failed = true; r.leave() }
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }
func (r *recorder) Skip(args ...any)                  { r.skipped = fmt.Sprint(args...); r.leave() }
func (r *recorder) Skipf(format string, args ...any)  { r.Skip(fmt.Sprintf(format, args...)) }

func TestASkipMustBeEarned(t *testing.T) {
	const tool = "berth-no-such-tool"
	for _, c := range []struct {
		require       string
		skips, failed bool
	}{{require: "", skips: true}, {require: "1", failed: true}} {
		t.Setenv("BERTH_TEST_REQUIRE_ROOT", c.require)
		r := record(t, func(tb testing.TB) { RequireTools(tb, "sh", tool) })
		if (r.skipped != "") != c.skips || r.failed != c.failed {
			t.Errorf("BERTH_TEST_REQUIRE_ROOT=%q: skipped %q, failed %v", c.require, r.skipped, r.failed)
		}
		if said := r.skipped + strings.Join(r.errors, ""); !strings.Contains(said, tool) || !strings.Contains(said, "script/packages") {
			t.Errorf("neither the tool nor the remedy is named: %s", said)
		}
	}
}

func TestTempDirNeverRemovesWhatIsMountedThere(t *testing.T) {
	RequireRoot(t)
	outside := TempDir(t)
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var dir string
	r := record(t, func(tb testing.TB) {
		dir = TempDir(tb)
		target := filepath.Join(dir, "below")
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Error(err)
		}
		for range 2 { // one over the other
			if err := unix.Mount(outside, target, "", unix.MS_BIND, ""); err != nil {
				t.Error(err)
			}
		}
		tb.Fatal("the test fails here")
	})
	if len(r.errors) != 1 {
		t.Errorf("errors: %q", r.errors)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("a file outside was removed: %v", err)
	}
}

func TestAToolThatFailsSaysWhy(t *testing.T) {
	_, err := tool{env: []string{"WORD=why"}}.try("sh", "-c", "echo out; echo $WORD >&2; exit 3")
	if err == nil {
		t.Fatal("exit status 3 is no error")
	}
	for _, part := range []string{"sh -c", "exit status 3", "out", "why"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in %q", part, err)
		}
	}
}

func TestTheCacheBuildsOnceAndForgetsOldVersions(t *testing.T) {
	dir := TempDir(t)
	t.Setenv("BERTH_TEST_CACHE", dir)
	builds := 0
	get := func(version string) string {
		path := cached(t, "thing", version, func(staging string) {
			builds++
			if err := os.WriteFile(filepath.Join(staging, "file"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
			t.Error(err)
		}
		return path
	}
	get("1")
	old := get("1")
	if builds != 1 {
		t.Errorf("the same version was built %d times", builds)
	}
	record(t, func(tb testing.TB) {
		cached(tb, "thing", "2", func(string) { tb.Fatal("the build fails") })
	})
	get("2")
	if builds != 2 {
		t.Errorf("after a failure and a success there were %d builds", builds)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old version is still there: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if want := []string{".thing.lock", "thing-2"}; !slices.Equal(names, want) {
		t.Errorf("the cache holds %q, want %q", names, want)
	}
}

// impatient is for tests that leak on purpose.
func impatient(t *testing.T) {
	old := leakGrace
	leakGrace = 100 * time.Millisecond
	t.Cleanup(func() { leakGrace = old })
}

func atoi(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
