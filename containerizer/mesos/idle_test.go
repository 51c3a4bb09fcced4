//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	godebug "runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/container"
	"berth/containerizer"
)

// soak is for larger counts, and hours.
var soak = os.Getenv("BERTH_TEST_SOAK") != ""

// The memory that one idle container may cost, in KiB: of berth-init, and of the process
// that has launched it.
const (
	mostOfInit  = 250
	mostOfAgent = 45 // it was 36 with 100 of them
)

// raceDetector is set where it is built in.
var raceDetector bool

// idleIDs are those of containers that live at once.
func idleIDs(count int) (ids []string) {
	for i := range count {
		ids = append(ids, fmt.Sprintf("idle-%d", i))
	}
	return ids
}

// launchIdle is the life of a helper that launches containers as the agent does, and says
// how much memory it takes for each.
func launchIdle(c *Containerizer, count int) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var before int
	for i, text := range idleIDs(count) {
		if i == count/5 { // what comes with the first ones comes once
			before = ownMemory()
		}
		id, err := container.ParseID(text)
		if err != nil {
			return err
		}
		request := containerizer.Request{Config: config(baseImage, "sleep", "100000"), Stdio: [3]*os.File{null, null, null}, Keeper: containerizer.Agent}
		if err := c.Launch(context.Background(), id, request); err != nil {
			return err
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	fmt.Println((ownMemory()-before)/(count-count/5), len(threads))
	select {} // until it is killed
}

// ownMemory is the resident memory of this process without garbage, in KiB.
func ownMemory() int {
	for range 3 { // what is pooled or has a cleanup goes with the second collection
		godebug.FreeOSMemory()
	}
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		panic(err)
	}
	return pages * os.Getpagesize() >> 10
}

// Containers that live at once cost next to nothing while they wait, and the agent that
// comes back takes all of them up again.
func TestIdleContainers(t *testing.T) {
	count := 100
	if soak {
		count = 1000
	}
	r := newRig(t)
	p := r.startHelper(helper{Idle: count, Agent: true})
	p.says("ready")
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var each, threads int
	if _, err := fmt.Sscan(line, &each, &threads); err != nil {
		t.Fatal(err)
	}
	t.Logf("the agent has %d threads and takes %d KiB for each of %d containers", threads, each, count)
	if threads > count/2 {
		t.Errorf("the agent has %d threads for %d containers", threads, count)
	}
	if each > mostOfAgent && !raceDetector { // whose own memory is several times that
		t.Errorf("the agent takes %d KiB for each container, at most %d are allowed", each, mostOfAgent)
	}
	r.checkInits(t, idleIDs(20))
	p.kill()
	began := time.Now()
	r.agent()
	t.Logf("%d containers are taken up again in %v", count, time.Since(began))
	all := r.Containers()
	if len(all) != count {
		t.Errorf("%d containers are taken up again, of %d", len(all), count)
	}
	for _, id := range all {
		_, err := r.Destroy(context.Background(), id)
		if err := errors.Join(err, r.Remove(context.Background(), id)); err != nil {
			t.Errorf("destroy %s: %v", id, err)
		}
	}
}

// checkInits measures init processes that have settled.
func (r *rig) checkInits(t *testing.T, ids []string) {
	t.Helper()
	total := 0
	for _, id := range ids {
		pid := strings.Fields(read(t, r.Layout.Container(mustID(t, id)).Pid()))[0]
		soon(t, "init processes that have settled", func() bool {
			threads, err := filepath.Glob("/proc/" + pid + "/task/*")
			return err == nil && (len(threads) == 1 || runtime.GOARCH != "amd64")
		})
		total += pss(t, pid)
	}
	t.Logf("berth-init takes %d KiB for each container", total/len(ids))
	if total/len(ids) > mostOfInit {
		t.Errorf("berth-init takes %d KiB for each container, at most %d are allowed", total/len(ids), mostOfInit)
	}
}

// Whoever launches and destroys all day has nothing left of it.
func TestLaunchingLeavesNothing(t *testing.T) {
	count := 300
	if soak {
		count = 10_000
	}
	r := newRig(t)
	cycle := func() {
		id := r.newID()
		if err := r.Launch(t.Context(), id, containerizer.Request{Config: config(baseImage, "true"), Keeper: containerizer.Foreground}); err != nil {
			t.Fatal(err)
		}
		if ended, err := r.Wait(t.Context(), id); err != nil || ended.ExitCode() != 0 {
			t.Fatal(ended, err)
		}
	}
	for range 10 { // what comes with the first ones comes once
		cycle()
	}
	descriptors, files, routines := descriptors(), r.files(), runtime.NumGoroutine()
	for range count {
		cycle()
	}
	r.assertNothingLeft()
	if leaks := newDescriptors(descriptors); len(leaks) > 0 {
		t.Errorf("after %d containers: %q", count, leaks)
	}
	if now := r.files(); !slices.Equal(now, files) {
		t.Errorf("after %d containers there are the files %q, before there were %q", count, now, files)
	}
	soon(t, "goroutines that end", func() bool { return runtime.NumGoroutine() <= routines })
}

// files are those of the world, records and sandboxes.
func (r *rig) files() (names []string) {
	r.Helper()
	err := filepath.WalkDir(r.dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	return names
}
