package provisioner_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "berth/api/v1"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/store/storetest"
)

// What a launch waits for a prune of 500 layers: provision and destroy of a cached image
// while the prune is under way, and while nothing is.
func BenchmarkLaunchBesidePrune(b *testing.B) {
	const layers, files = 500, 30
	bench := &bench{Memory: storetest.NewMemory(), fake: &fake{}}
	for name, img := range images {
		bench.Publish(name, img)
	}
	var doomed []string
	for n := range layers / 10 {
		var img storetest.Image
		for m := range 10 {
			img = append(img, manyFiles(n*10+m, files))
		}
		name := fmt.Sprintf("doomed%d", n)
		bench.Publish(name, img)
		doomed = append(doomed, name)
	}
	bench.Provisioner = bench.open(b, testrig.LoopFS(b, "ext4", 2048), "overlay")
	b.Cleanup(func() { _ = bench.Layers.Close() }) // or the file system is in use
	bench.launch(b)                                // pulls
	var idle, beside []time.Duration
	var pruned time.Duration
	for b.Loop() {
		for range 200 {
			idle = append(idle, bench.launch(b))
		}
		bench.fill(b, doomed)
		took := make(chan time.Duration)
		go func() {
			begin := time.Now()
			got, err := bench.Prune(b.Context(), provisioner.PruneOptions{Excluded: []*v1.Image{bench.Image("three")}})
			if err != nil || len(got.Layers) != layers {
				b.Errorf("prune: %d layers, %v", len(got.Layers), err)
			}
			took <- time.Since(begin)
		}()
		for under := true; under; {
			select {
			case d := <-took:
				pruned, under = pruned+d, false
			default:
				beside = append(beside, bench.launch(b))
			}
		}
	}
	slices.Sort(idle)
	slices.Sort(beside)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(pruned.Seconds()/float64(b.N), "prune-s")
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		alone, along := at(idle, q.q), at(beside, q.q)
		b.ReportMetric(float64(alone.Microseconds()), "idle-"+q.name+"-µs")
		b.ReportMetric(float64(along.Microseconds()), "prune-"+q.name+"-µs")
		b.ReportMetric(float64(along)/float64(alone), q.name+"-ratio")
	}
}

func manyFiles(seed, files int) []byte {
	var entries []storetest.Entry
	for n := range files {
		entries = append(entries, storetest.File(fmt.Sprintf("layer%d/file%d", seed, n), fmt.Sprintf("%4096d", seed*files+n)))
	}
	return storetest.Tar(entries...)
}

// fill pulls images.
func (b *bench) fill(t testing.TB, names []string) {
	t.Helper()
	for _, name := range names {
		found, err := b.Stores[v1.Image_DOCKER].Get(t.Context(), b.Image(name), layer.Tree)
		if err == nil {
			err = found.Release()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// launch is how long a root filesystem takes, there and back.
func (b *bench) launch(t testing.TB) time.Duration {
	t.Helper()
	begin := time.Now()
	_, err := b.Provision(t.Context(), mustID("launch"), b.Image("three"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Destroy(t.Context(), mustID("launch")); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin)
}
