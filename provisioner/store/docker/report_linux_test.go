package docker

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/image"
	"berth/internal/disk"
	"berth/internal/metrics"
	"berth/internal/stages"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/storetest"
	"berth/registry"
)

const delay = 300 * time.Millisecond

// slowly answers requests for blobs part by part.
func slowly(next http.Handler) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			return false
		}
		next.ServeHTTP(throttled{w}, req)
		return true
	}
}

// throttled lets the first part of an answer through at once, and sleeps after it.
type throttled struct{ http.ResponseWriter }

func (w throttled) Write(p []byte) (int, error) {
	const part = 100_000
	written := 0
	for len(p) > part {
		n, err := w.ResponseWriter.Write(p[:part])
		written += n
		if err != nil {
			return written, err
		}
		w.ResponseWriter.(http.Flusher).Flush()
		p = p[part:]
		time.Sleep(delay)
	}
	n, err := w.ResponseWriter.Write(p)
	return written + n, err
}

// slowDisk lets the first step of a kind take longer.
func slowDisk(t *testing.T, slow func(disk.Step) bool) {
	var once sync.Once
	t.Cleanup(disk.Intercept(func(s disk.Step) error {
		if slow(s) {
			once.Do(func() { time.Sleep(delay) })
		}
		return nil
	}))
}

// slowDial is a transport that takes its time to connect to a place that it knows not.
func slowDial() http.RoundTripper {
	transport := registry.NewTransport()
	transport.DisableKeepAlives = true
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		time.Sleep(delay)
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	return transport
}

func timeIn(all []stages.Spent, stage stages.Stage) time.Duration {
	for _, s := range all {
		if s.Stage == stage {
			return s.Time
		}
	}
	return 0
}

// Wherever a pull is slowed down, that stage of the layer has the time, and all stages
// add up to the time that the pull took.
func TestReportNamesTheSlowStage(t *testing.T) {
	one := []madeLayer{gzipped(layerB)}
	blob := image.DigestOf(one[0].blob).String()
	for _, c := range []struct {
		stage stages.Stage
		slow  func(*testing.T, *bench, *testRegistry)
	}{
		{stages.Connect, func(t *testing.T, b *bench, _ *testRegistry) {
			slow, err := New(Options{Dir: filepath.Join(b.dir, "docker"), Layers: b.layers,
				Registry: registry.NewClient(registry.Options{Keychain: &registry.DockerConfig{}, Transport: slowDial()})})
			if err != nil {
				t.Fatal(err)
			}
			b.Store = slow
		}},
		{stages.FirstByte, func(_ *testing.T, _ *bench, r *testRegistry) {
			r.intercept(func(_ http.ResponseWriter, req *http.Request) bool {
				if strings.HasSuffix(req.URL.Path, blob) {
					time.Sleep(delay)
				}
				return false
			})
		}},
		{stages.Transfer, func(_ *testing.T, _ *bench, r *testRegistry) { r.intercept(slowly(r.inner)) }},
		{stages.Unpack, func(t *testing.T, _ *bench, _ *testRegistry) {
			slowDisk(t, func(s disk.Step) bool { return s.Op == "write" && s.Path == "" }) // to a file of the layer
		}},
		{stages.Sync, func(t *testing.T, _ *bench, _ *testRegistry) {
			slowDisk(t, func(s disk.Step) bool { return s.Op == "syncfs" })
		}},
	} {
		t.Run(string(c.stage), func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			r.push(t, "slow", "1", madeImage{layers: one})
			c.slow(t, b, r)
			before := time.Now()
			report := b.report(t, r, "slow:1")
			if took := time.Since(before); report.Total > took {
				t.Errorf("it is said to have taken %s, and took %s", report.Total, took)
			}
			if in := timeIn(report.Layers[0].Stages, c.stage); in < delay {
				t.Errorf("%s of %s in the stage %q, want at least %s: %v", in, report.Total, c.stage, delay, report.Layers[0].Stages)
			}
		})
	}
}

// report pulls an image and returns the report, which adds up.
func (b *bench) report(t *testing.T, r *testRegistry, name string) *store.PullReport {
	t.Helper()
	found, err := b.Get(t.Context(), r.ref("%s", name), layer.Tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Release(); err != nil {
		t.Error(err)
	}
	storetest.WantWholeReport(t, found.Pull)
	return found.Pull
}

// A redirect, and a token, are part of the way to the blob.
func TestReportCountsTheWayToTheBlob(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	one := gzipped(layerB)
	r.push(t, "far", "1", madeImage{layers: []madeLayer{one}})
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != r.blobPath("far", one) || req.URL.RawQuery != "" {
			return false
		}
		time.Sleep(delay)
		http.Redirect(w, req, req.URL.Path+"?there", http.StatusTemporaryRedirect)
		return true
	})
	report := b.report(t, r, "far:1")
	if in := timeIn(report.Layers[0].Stages, stages.Connect); in < delay {
		t.Errorf("%s until connected, want at least the %s of the redirect: %v", in, delay, report.Layers[0].Stages)
	}
}

// Of more layers than are fetched at a time, the last ones queue, and the first ones wait
// for them.
func TestReportOfManyLayers(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	m := madeImage{}
	for i := range 3*(max(2, runtime.GOMAXPROCS(0))+1) + 1 {
		m.layers = append(m.layers, gzipped(storetest.Layer(fmt.Sprint(i), 1000)))
	}
	r.push(t, "many", "1", m)
	r.intercept(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/blobs/") {
			time.Sleep(delay / 10)
		}
		return false
	})
	report := b.report(t, r, "many:1")
	var queued, waited time.Duration
	for i, l := range report.Layers {
		if l.Layer != m.ids()[i] || !l.Fetched {
			t.Errorf("layer %d of the report is %+v", i, l)
		}
		queued, waited = max(queued, timeIn(l.Stages, stages.Queue)), max(waited, timeIn(l.Stages, stages.Wait))
	}
	// Before the last one, three others had its place, and after the first one.
	if least := 3 * delay / 10; queued < least || waited < least {
		t.Errorf("queued for %s and waited for %s at most, want at least %s", queued, waited, least)
	}
}

func TestReportOfLayersThatAreThere(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	r.push(t, "a", "2", madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerB)}})
	b.pull(t, r.ref("a:1"))
	report := b.report(t, r, "a:2")
	if l := report.Layers; l[0].Fetched || !l[1].Fetched || l[1].Unpacked != int64(len(layerB)) || l[1].Size != int64(len(gzipped(layerB).blob)) {
		t.Errorf("the layers are %+v", l)
	}
	if report.Image != r.host+"/a:2" {
		t.Errorf("the image is %s", report.Image)
	}
}

// The same with a registry that other people have written, and tools that have made the
// image.
func TestReportOfARealImage(t *testing.T) {
	b := newBench(t)
	reg := testrig.Registry(t)
	ref := testrig.MultiLayerImage(t, reg, "multi:1")
	found, err := b.Get(t.Context(), named(ref), layer.Tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Release(); err != nil {
		t.Error(err)
	}
	storetest.WantWholeReport(t, found.Pull)
	for _, l := range found.Pull.Layers {
		var names []stages.Stage
		for _, s := range l.Stages {
			names = append(names, s.Stage)
		}
		if !slices.Equal(names, stages.Layer) {
			t.Errorf("the stages are %v, want %v", names, stages.Layer)
		}
	}
}

func TestMetrics(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	set := metrics.New()
	s, err := New(Options{Dir: filepath.Join(b.dir, "docker"), Layers: b.layers, Registry: newClient(), Metrics: set})
	if err != nil {
		t.Fatal(err)
	}
	b.Store = s
	const prefix = "containerizer/mesos/provisioner/docker_store/"
	want := func(what string, pulls, hits, blobs, bytes int) {
		t.Helper()
		values := set.Snapshot()
		for name, want := range map[string]int{"image_pull_ms/count": pulls, "cache_hits": hits, "blobs_fetched": blobs, "bytes_fetched": bytes} {
			if got := values[prefix+name]; got != float64(want) {
				t.Errorf("%s: %s is %v, want %d", what, name, got, want)
			}
		}
	}
	one, two := gzipped(layerA), gzipped(layerB)
	sizes := len(one.blob) + len(two.blob)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{one, two}})
	want("new", 0, 0, 0, 0)
	if _, timed := set.Snapshot()[prefix+"image_pull_ms"]; timed {
		t.Error("there is a time before the first pull")
	}
	b.fails(t, r.ref("unknown"))
	want("after a failure", 1, 0, 0, 0)
	b.pull(t, r.ref("a:1"))
	want("after a pull", 2, 0, 2, sizes)
	b.pull(t, r.ref("a:1"))
	want("cached", 2, 1, 2, sizes)
	b.lose(t, layerA)
	b.pull(t, r.ref("a:1"))
	want("after a layer was missing", 3, 1, 3, sizes+len(one.blob))
	b.lose(t, layerA)
	if _, err := b.refetch(t, layerA); err != nil {
		t.Error(err)
	}
	want("after a refetch", 3, 1, 4, sizes+2*len(one.blob))
}
