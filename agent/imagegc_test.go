package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/provisioner"
	"berth/provisioner/store"
)

// gcBench is an ImageGC that looks at a disk once in a minute, with 10 % to stay free.
type gcBench struct {
	mu      sync.Mutex // time that passes orders nothing for the race detector
	used    float64
	usedErr error
	pruned  provisioner.Pruned
	err     error
	takes   time.Duration

	began   time.Time
	prunes  []time.Duration // when they ended, after the start
	options []provisioner.PruneOptions
	log     bytes.Buffer
}

// Write is that of the log.
func (b *gcBench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

// change changes what the image GC finds.
func (b *gcBench) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// watch runs the image GC until the test ends; fake time.
func (b *gcBench) watch(t *testing.T) {
	config := &v1.ImageGcConfig{
		ImageDiskHeadroom:      proto.Float64(0.1),
		ImageDiskWatchInterval: &v1.DurationInfo{Nanoseconds: proto.Int64(int64(time.Minute))},
		ExcludedImages:         []*v1.Image{{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String("keep")}}},
	}
	b.began = time.Now()
	gc := &ImageGC{
		Config: config,
		Log:    slog.New(slog.NewTextHandler(b, nil)),
		Used: func() (float64, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.used, b.usedErr
		},
		Prune: func(_ context.Context, o provisioner.PruneOptions) (provisioner.Pruned, error) {
			time.Sleep(b.takes)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.prunes = append(b.prunes, time.Since(b.began))
			b.options = append(b.options, o)
			return b.pruned, b.err
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { gc.Run(ctx); close(ended) }()
	t.Cleanup(func() { stop(); <-ended })
}

// pass lets fake time pass, and all that happens in it happen.
func (b *gcBench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *gcBench) wantPrunes(t *testing.T, want ...time.Duration) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.prunes, want) {
		t.Errorf("pruned after %v, want %v", b.prunes, want)
	}
	b.prunes, b.began = nil, time.Now()
}

func minutes(all ...float64) (durations []time.Duration) {
	for _, m := range all {
		durations = append(durations, time.Duration(m*float64(time.Minute)))
	}
	return durations
}

func (b *gcBench) wantLog(t *testing.T, times int, words string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := strings.Count(b.log.String(), words); got != times {
		t.Errorf("the log says %q %d times, want %d:\n%s", words, got, times, b.log.String())
	}
}

var removedOne = provisioner.Pruned{Images: []store.Record{{Reference: "old:1"}}, Bytes: 4096}

func TestImageGCLooksOnceInAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &gcBench{used: 0.95, pruned: removedOne}
		b.watch(t)
		b.pass(time.Minute - time.Nanosecond)
		b.wantPrunes(t)
		b.pass(time.Nanosecond)
		b.wantPrunes(t, time.Nanosecond)
		b.pass(2 * time.Minute)
		b.wantPrunes(t, minutes(1, 2)...)
		if got := b.options[0]; got.DryRun || len(got.Excluded) != 1 || got.Excluded[0].GetDocker().GetName() != "keep" {
			t.Errorf("pruned with %v", got)
		}
		b.wantLog(t, 3, "images=[old:1]")
		b.wantLog(t, 3, "bytes=4096")
	})
}

func TestImageGCRemovesNothingWhileEnoughIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &gcBench{used: 0.9, pruned: removedOne} // 0.1 + 0.9 is not more than 1
		b.watch(t)
		b.pass(10 * time.Minute)
		b.wantPrunes(t)
		b.change(func() { b.used = 0.901 })
		b.pass(time.Minute)
		b.wantPrunes(t, minutes(1)...)
	})
}

func TestImageGCThatPrunesInVainSaysSoOnceAndBecomesPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &gcBench{used: 0.95}
		b.watch(t)
		b.pass(70 * time.Minute)
		b.wantPrunes(t, minutes(1, 3, 6, 11, 20, 37, 54)...)
		b.wantLog(t, 1, "there is no image to remove")
		// Once there is something to remove, it is at every look again.
		b.change(func() { b.pruned = removedOne })
		b.pass(3 * time.Minute)
		b.wantPrunes(t, minutes(1, 2, 3)...)
		// And of a disk that was free in between the log speaks again.
		b.change(func() { b.pruned = provisioner.Pruned{} })
		b.pass(time.Minute)
		b.change(func() { b.used = 0.5 })
		b.pass(time.Minute)
		b.wantLog(t, 1, "free again")
		b.change(func() { b.used = 0.95 })
		b.pass(time.Minute)
		b.wantPrunes(t, minutes(1, 3)...)
		b.wantLog(t, 3, "there is no image to remove")
	})
}

func TestImageGCSurvivesFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &gcBench{used: 0.95, err: errors.New("disk is broken")}
		b.watch(t)
		b.pass(2 * time.Minute)
		b.wantPrunes(t, minutes(1, 2)...)
		b.wantLog(t, 2, "disk is broken")
		b.change(func() { b.usedErr = errors.New("disk has gone") })
		b.pass(2 * time.Minute)
		b.wantPrunes(t)
		b.wantLog(t, 2, "disk has gone")
		b.change(func() { b.usedErr, b.err, b.pruned = nil, nil, removedOne })
		b.pass(time.Minute)
		b.wantPrunes(t, minutes(1)...)
	})
}

// One that takes long does not lead to another one at once.
func TestImageGCWaitsAnIntervalAfterAPrune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &gcBench{used: 0.95, pruned: removedOne, takes: 150 * time.Second}
		b.watch(t)
		b.pass(7 * time.Minute)
		b.wantPrunes(t, minutes(3.5, 7)...)
	})
}
