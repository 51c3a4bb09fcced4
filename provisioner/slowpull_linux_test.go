package provisioner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/container"
	"berth/internal/testrig"
	"berth/provisioner"
)

// hang has the registry send half of a layer of the image and then wait until letGo.
func (g *gallery) hang(t *testing.T, p *picture, layer string) (hangs <-chan struct{}, letGo func()) {
	t.Helper()
	layers, err := p.image(t, hostPlatform).Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob := layers[slices.Index(p.layers, layer)]
	digest, digestErr := blob.Digest()
	compressed, contentErr := blob.Compressed()
	if err := errors.Join(digestErr, contentErr); err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(compressed)
	if err != nil {
		t.Fatal(err)
	}
	inside, goOn := make(chan struct{}), make(chan struct{})
	var first, last sync.Once
	g.registry.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:len(content)/2]) // the client may have gone
		_ = http.NewResponseController(w).Flush()
		first.Do(func() { close(inside) })
		<-goOn
		_, _ = w.Write(content[len(content)/2:])
		return true
	})
	letGo = func() { last.Do(func() { close(goOn) }) }
	t.Cleanup(letGo)
	return inside, letGo
}

// While a registry keeps a pull waiting, everybody else goes on: in the process that
// pulls, and in another one. What the pull has got so far, and what it relies on, stays.
func TestASlowPullStopsNobody(t *testing.T) {
	testrig.RequireRoot(t)
	dir := testrig.TempDir(t)
	g := newGallery(t)
	pulling, other := newProcess(t, dir, "overlay"), newProcess(t, dir, "overlay")
	// It is all that has the layer base, before the pull.
	three, two := wish{"three", "", true}, wish{"two", "", true}
	if err := pulling.pull(t.Context(), g.image(three)); err != nil {
		t.Fatal(err)
	}
	hangs, letGo := g.hang(t, g.picture(two), "two")
	pulled := make(chan error, 1)
	var rootfs *provisioner.Rootfs
	go func() {
		var err error
		rootfs, err = pulling.Provision(t.Context(), mustID("slow"), g.image(two))
		pulled <- err
	}()
	<-hangs

	// Who waits for the pull waits for ever: this ends it.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for n, p := range []*process{pulling, other} {
		for _, name := range []string{"one", "four"} {
			at := fmt.Sprintf("c%d-%s", n, name)
			asked := wish{name, "", true}
			made, err := p.Provision(ctx, mustID(at), g.image(asked))
			if err != nil {
				t.Fatalf("provision %s: %v", name, err)
			}
			wantTree(t, made.Path, g.picture(asked).tree)
			if existed, err := p.Destroy(ctx, mustID(at)); !existed || err != nil {
				t.Errorf("destroy %s: %v, %v", at, existed, err)
			}
		}
		if _, err := p.Remove(ctx, g.image(wish{name: "four"})); err != nil {
			t.Errorf("remove: %v", err)
		}
		if _, err := p.Sweep(ctx); err != nil {
			t.Errorf("sweep: %v", err)
		}
		if err := p.Recover(ctx, func(container.ID) bool { return false }); err != nil {
			t.Errorf("recover: %v", err)
		}
		for _, dry := range []bool{true, false} {
			if _, err := p.Prune(ctx, provisioner.PruneOptions{DryRun: dry}); err != nil {
				t.Errorf("prune: %v", err)
			}
		}
		if _, err := p.Usage(ctx); err != nil {
			t.Errorf("usage: %v", err)
		}
		if report, err := p.Check(ctx); err != nil || !report.Clean() {
			t.Errorf("check: %+v, %v", report, err)
		}
		if _, err := p.Repair(ctx); err != nil {
			t.Errorf("repair: %v", err)
		}
	}
	if recorded, err := other.images.List(ctx); err != nil || len(recorded) > 0 {
		t.Errorf("after the prune there are the images %v, %v", recorded, err)
	}
	wantLayers(t, other, "base")

	letGo()
	if err := <-pulled; err != nil {
		t.Fatalf("the slow pull: %v", err)
	}
	wantTree(t, rootfs.Path, g.picture(two).tree)
	wantLayers(t, other, "base", "two")
	wantIdle(t, pulling)
	pulling.stop(t)
	other.stop(t)
}

func wantLayers(t *testing.T, p *process, want ...string) {
	t.Helper()
	ids, err := p.Layers.List()
	if err != nil {
		t.Fatal(err)
	}
	wantNames(t, filepath.Join(p.Layers.Dir(), "layers"), namesOf(ids), want)
}
