package fetcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"berth/container"
	"berth/internal/disk"
)

// child fetches in a process of its own, which kills itself before the step of that number.
func child() int {
	if step, err := strconv.Atoi(os.Getenv("FETCHER_TEST_STEP")); err == nil {
		disk.Intercept(killAt(step))
	}
	dir := os.Getenv("FETCHER_TEST_DIR")
	sandbox, err := os.MkdirTemp(dir, "sandbox")
	if err == nil {
		f := New(Options{CacheDir: filepath.Join(dir, "cache"), CacheSize: 1 << 20})
		err = f.Fetch(context.Background(), request(cached(os.Getenv("FETCHER_TEST_URI"))), sandbox, nobody.uid, nobody.gid, nobody.ids)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func killAt(step int) func(disk.Step) error {
	var n atomic.Int64
	return func(disk.Step) error {
		if n.Add(1) == int64(step) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing more is done
		}
		return nil
	}
}

func process(t *testing.T, dir, uri, step string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "FETCHER_TEST_DIR="+dir, "FETCHER_TEST_URI="+uri, "FETCHER_TEST_STEP="+step)
	return cmd
}

func TestAContainersWritesDoNotReachTheCache(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": []byte("content")})
	path := filepath.Join(r.fetched(cached(s.URL+"/file")), "file")
	if err := os.WriteFile(path, []byte("written"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(r.fetched(cached(s.URL+"/file")), "file"), []byte("content"), 0o644)
	r.wantCache(1)
}

func TestTheCacheAsksWhetherContentIsTheSame(t *testing.T) {
	for _, bare := range []bool{false, true} {
		r := newRig(t)
		s := newSite(t, map[string][]byte{"/file": []byte("one")})
		s.bare = bare
		var bodies atomic.Int64
		s.handle = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("If-None-Match") == "" {
				bodies.Add(1)
			}
			return false
		}
		for range 3 {
			wantFile(t, filepath.Join(r.fetched(cached(s.URL+"/file")), "file"), []byte("one"), 0o644)
		}
		if n := bodies.Load(); !bare && n != 1 || s.asked() != 3 {
			t.Errorf("%d requests of 3 were for the content", n)
		}
		s.set("/file", []byte("another"))
		wantFile(t, filepath.Join(r.fetched(cached(s.URL+"/file")), "file"), []byte("another"), 0o644)
		r.wantCache(1)
		s.Close()
		if err := r.into(r.sandbox(), cached(s.URL+"/file")); !errors.Is(err, container.ErrUnavailable) {
			t.Errorf("without the server: %v", err)
		}
		known := s.URL + "/file#sha256=" + digest([]byte("another"))
		wantFile(t, filepath.Join(r.fetched(cached(known)), "file"), []byte("another"), 0o644)
	}
}

func TestContentThatIsNotWhatTheURISays(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": []byte("one")})
	wrong := cached(s.URL + "/file#sha256=" + digest([]byte("two")))
	if err := r.into(r.sandbox(), wrong); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("a wrong digest: %v", err)
	}
	s.set("/file", []byte("two"))
	wantFile(t, filepath.Join(r.fetched(wrong), "file"), []byte("two"), 0o644)
	// What rots in the cache is found, and mended.
	all, err := filepath.Glob(filepath.Join(r.cache.dir, "*."+digest([]byte("two"))))
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if err := os.WriteFile(all[0], []byte("xyz"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(r.fetched(wrong), "file"), []byte("two"), 0o644)
	r.wantCache(1)
}

func TestTheCacheIsBounded(t *testing.T) {
	r := newRig(t, func(o *Options) { o.CacheSize = 10 << 10 })
	files := make(map[string][]byte)
	for i := range 5 {
		files[fmt.Sprintf("/%d", i)] = make([]byte, 3<<10)
	}
	files["/large"] = make([]byte, 11<<10)
	s := newSite(t, files)
	for i := range 5 {
		r.fetched(cached(s.URL + fmt.Sprintf("/%d", i)))
		r.fetched(cached(s.URL + "/0")) // is wanted all the time
		if used := r.cache.used(); used > r.cache.size {
			t.Errorf("the cache has %d bytes", used)
		}
	}
	r.wantCache(3)
	key := digest([]byte(s.URL + "/0"))
	if _, err := os.Stat(filepath.Join(r.cache.dir, key+".json")); err != nil {
		t.Errorf("what was used last has gone: %v", err)
	}
	wantFile(t, filepath.Join(r.fetched(cached(s.URL+"/large")), "large"), files["/large"], 0o644)
	r.wantCache(3)
	// It is in use as long as somebody has it locked.
	busy, err := r.cache.lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		r.fetched(cached(s.URL + fmt.Sprintf("/%d", i+1)))
	}
	if err := busy.lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(r.cache.dir, key+".json")); err != nil {
		t.Errorf("what was in use has gone: %v", err)
	}
}

func TestWhatHasNoSizeIsNotCached(t *testing.T) {
	r := newRig(t)
	s := newSite(t, nil)
	s.handle = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.(http.Flusher).Flush()
		w.Write([]byte("content"))
		return true
	}
	wantFile(t, filepath.Join(r.fetched(cached(s.URL+"/file")), "file"), []byte("content"), 0o644)
	if used := r.cache.used(); used != 0 {
		t.Errorf("the cache has %d bytes", used)
	}
}

// gate makes downloads wait, and counts them.
func gate(s *site, wait func()) (downloads *atomic.Int64) {
	downloads = new(atomic.Int64)
	s.serve(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-None-Match") == "" {
			downloads.Add(1)
			wait()
		}
		return false
	})
	return downloads
}

func TestSixteenWhoWantOneFileDownloadItOnce(t *testing.T) {
	for _, bare := range []bool{false, true} {
		r := newRig(t)
		s := newSite(t, map[string][]byte{"/file": make([]byte, 100<<10)})
		s.bare = bare
		// The first thing that is done for each: from then on it is one of those who wait.
		var begun sync.WaitGroup
		begun.Add(16)
		restore := disk.Intercept(func(step disk.Step) error {
			if step.Op == "mkdir" && step.Path == r.cache.dir {
				begun.Done()
			}
			return nil
		})
		defer restore()
		downloads := gate(s, begun.Wait)
		var group sync.WaitGroup
		for range 16 {
			sandbox := r.sandbox()
			group.Go(func() {
				if err := r.into(sandbox, cached(s.URL+"/file")); err != nil {
					t.Error(err)
				}
				wantFile(t, filepath.Join(sandbox, "file"), s.files["/file"], 0o644)
			})
		}
		group.Wait()
		restore()
		if n := downloads.Load(); n != 1 {
			t.Errorf("%d downloads", n)
		}
		r.wantCache(1)
	}
}

func TestSixteenProcessesShareACache(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": make([]byte, 100<<10)})
	downloads := gate(s, func() { time.Sleep(300 * time.Millisecond) })
	var group sync.WaitGroup
	for range 16 {
		cmd := process(t, r.dir, s.URL+"/file", "")
		group.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	group.Wait()
	if n := downloads.Load(); n != 1 {
		t.Errorf("%d downloads", n)
	}
	r.wantCache(1)
	sandboxes, err := filepath.Glob(filepath.Join(r.dir, "sandbox*/file"))
	if err != nil || len(sandboxes) != 16 {
		t.Errorf("%d sandboxes have the file, %v", len(sandboxes), err)
	}
	for _, path := range sandboxes {
		wantFile(t, path, s.files["/file"], 0o644)
	}
}

// Several caches' worth of files, and processes that come and go.
func TestARaceForLittleRoom(t *testing.T) {
	r := newRig(t, func(o *Options) { o.CacheSize = 20 << 10 })
	files := make(map[string][]byte)
	for i := range 8 {
		files[fmt.Sprintf("/%d", i)] = []byte(strings.Repeat(strconv.Itoa(i), 5<<10))
	}
	s := newSite(t, files)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for j := range 8 {
				path := fmt.Sprintf("/%d", (i+j*3)%8)
				sandbox, err := os.MkdirTemp(r.dir, "race")
				if err == nil {
					err = r.into(sandbox, cached(s.URL+path))
				}
				if err != nil {
					t.Error(err)
					return
				}
				wantFile(t, filepath.Join(sandbox, path), files[path], 0o644)
			}
		})
	}
	group.Wait()
	if used := r.cache.used(); used > r.cache.size {
		t.Errorf("the cache has %d bytes", used)
	}
	r.fetched(cached(s.URL + "/0"))
}

// steps counts those of a fetch in a world that ready has made.
func (r *rig) steps(uri string) int {
	r.t.Helper()
	var n atomic.Int64
	restore := disk.Intercept(func(disk.Step) error { n.Add(1); return nil })
	defer restore()
	r.fetched(cached(uri))
	return int(n.Load())
}

// Wherever a process is killed, the next one fetches, and nothing stays that has no owner.
func TestKilledAtEveryStep(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": make([]byte, 10<<10), "/other": []byte("x")})
	steps := r.steps(s.URL + "/file")
	if steps < 15 {
		t.Fatalf("a fetch has %d steps", steps)
	}
	for step := 1; step <= steps; step++ {
		dir := filepath.Join(r.dir, strconv.Itoa(step))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		err := process(t, dir, s.URL+"/file", strconv.Itoa(step)).Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("step %d of %d: %v, want a kill", step, steps, err)
		}
		next := rigIn(t, dir)
		// Of somebody who wants something else.
		next.fetched(cached(s.URL + "/other"))
		left := 1
		e, err := next.cache.lock(t.Context(), digest([]byte(s.URL+"/file")))
		if err != nil {
			t.Fatal(err)
		}
		if _, f := e.read(); f != nil {
			left++
			f.Close()
		}
		if err := e.release(); err != nil {
			t.Error(err)
		}
		next.wantCache(left)
		wantFile(t, filepath.Join(next.fetched(cached(s.URL+"/file")), "file"), s.files["/file"], 0o644)
		next.wantCache(2)
	}
}

// Whichever call fails, the error is returned, nothing stays in the sandbox, and the next
// fetch works.
func TestEveryCallMayFail(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		r := newRig(t)
		s := newSite(t, map[string][]byte{"/file": make([]byte, 10<<10)})
		steps := r.steps(s.URL + "/file")
		for step := 1; step <= steps; step++ {
			next := rigIn(t, filepath.Join(r.dir, strconv.Itoa(step)))
			if err := os.MkdirAll(next.dir, 0o755); err != nil {
				t.Fatal(err)
			}
			sandbox := next.sandbox()
			var n atomic.Int64
			var at disk.Step
			restore := disk.Intercept(func(s disk.Step) error {
				if n.Add(1) == int64(step) {
					at = s
					return errno
				}
				return nil
			})
			err := next.into(sandbox, cached(s.URL+"/file"))
			restore()
			if err != nil && !errors.Is(err, errno) {
				t.Errorf("%+v: %v, want %v", at, err, errno)
			}
			if err != nil && at.Op != "remove" && at.Op != "unlink" {
				if left := names(t, sandbox); len(left) > 0 && !slices.Equal(left, []string{"file"}) {
					t.Errorf("%+v: the sandbox has %q", at, left)
				}
			}
			wantFile(t, filepath.Join(next.fetched(cached(s.URL+"/file")), "file"), s.files["/file"], 0o644)
			next.wantCache(1)
		}
	}
}

func TestAFetchEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	s := newSite(t, nil)
	s.handle = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "1000000")
		w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		cancel(why)
		<-r.Context().Done()
		return true
	}
	for _, u := range []string{"/file", "/other"} {
		if err := r.Fetch(ctx, request(cached(s.URL+u)), r.sandbox(), nobody.uid, nobody.gid, nobody.ids); !errors.Is(err, why) {
			t.Errorf("%v, want %v", err, why)
		}
	}
}
