package provisioner_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/metrics"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/backend"
	"berth/provisioner/backend/bind"
	"berth/provisioner/backend/copy"
	"berth/provisioner/backend/overlay"
	"berth/provisioner/store"
	"berth/provisioner/store/storetest"
	"berth/state"
)

// fake is a backend of which a test decides what it does. By default it makes and
// removes an empty directory.
type fake struct {
	mu        sync.Mutex
	destroyed []string // root filesystems, in order
	onForm    func()
	onMake    func(ctx context.Context, rootfs string) error
	onDestroy func(rootfs string) error
}

func (f *fake) Form() layer.Form {
	if f.onForm != nil {
		f.onForm()
	}
	return layer.Tree
}

func (f *fake) Ephemeral(rootfs, _ string) []string { return []string{rootfs} }

func (f *fake) Provision(ctx context.Context, _ []backend.Layer, rootfs, _ string) error {
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	if f.onMake != nil {
		return f.onMake(ctx, rootfs)
	}
	return nil
}

func (f *fake) Destroy(_ context.Context, rootfs, _ string) (bool, error) {
	f.mu.Lock()
	f.destroyed = append(f.destroyed, rootfs)
	f.mu.Unlock()
	if f.onDestroy != nil {
		if err := f.onDestroy(rootfs); err != nil {
			return true, err
		}
	}
	return true, os.RemoveAll(rootfs)
}

// bench is a provisioner on directories of its own.
type bench struct {
	*provisioner.Provisioner
	*storetest.Memory
	fake    *fake
	metrics *metrics.Set
	log     lines
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take returns what was logged since the last call.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// The images of every bench: each file has the name of its layer.
var images = map[string]storetest.Image{
	"one":   {storetest.Layer("one", 3000)},
	"two":   {storetest.Layer("base", 3000), storetest.Layer("two", 3000)},
	"three": {storetest.Layer("base", 3000), storetest.Layer("three", 3000), storetest.Layer("more", 3000)},
	"four":  {storetest.Layer("one", 3000), storetest.Layer("four", 3000)},
	"five":  {storetest.Layer("five", 30_000)},
}

// topFile is a file that shows that a root filesystem is that of an image.
func topFile(name string) string {
	if name == "three" {
		return "more"
	}
	return name
}

func newBench(t testing.TB, backendName string) *bench {
	t.Helper()
	testrig.RequireRoot(t)
	return newBenchIn(t, testrig.TempDir(t), backendName)
}

func newBenchIn(t testing.TB, dir, backendName string) *bench {
	t.Helper()
	b := &bench{Memory: storetest.NewMemory(), fake: &fake{}, metrics: metrics.New()}
	for name, img := range images {
		b.Publish(name, img)
	}
	b.Provisioner = b.open(t, dir, backendName)
	return b
}

// open returns a provisioner of the bench's images in dir.
func (b *bench) open(t testing.TB, dir, backendName string) *provisioner.Provisioner {
	t.Helper()
	layout, err := state.NewLayout(filepath.Join(dir, "work"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layer.Open(layout.Store(), layer.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := layers.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := provisioner.New(provisioner.Options{
		Paths: layout.Provisioner(), Layers: layers, Backend: backendName,
		Stores:   map[v1.Image_Type]store.Store{v1.Image_DOCKER: b.Open(layers, nil)},
		Backends: map[string]backend.Backend{"overlay": overlay.New(), "copy": copy.New(), "bind": bind.New(b.metrics), "fake": b.fake},
		Metrics:  b.metrics, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func id(t testing.TB, s string) container.ID {
	t.Helper()
	parsed, err := container.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// provision makes a root filesystem of one of the images.
func (b *bench) provision(t testing.TB, at, name string) *provisioner.Rootfs {
	t.Helper()
	rootfs, err := b.Provision(t.Context(), id(t, at), b.Image(name))
	if err != nil {
		t.Fatalf("provision: %v", err)
	}
	return rootfs
}

func (b *bench) wantDestroyed(t testing.TB, at string, want bool) {
	t.Helper()
	if existed, err := b.Destroy(t.Context(), id(t, at)); existed != want || err != nil {
		t.Errorf("destroy %s: %v, %v; want %v", at, existed, err, want)
	}
}

func (b *bench) recoverAll(t testing.TB, known ...string) error {
	t.Helper()
	return b.Recover(t.Context(), func(id container.ID) bool { return slices.Contains(known, id.String()) })
}

// wantContainers compares the containers that have a directory, and says that nothing
// is mounted but in these.
func (b *bench) wantContainers(t testing.TB, want ...string) {
	t.Helper()
	var got []string
	var walk func(dir string, parent container.ID)
	walk = func(dir string, parent container.ID) {
		children, err := state.Children(dir, parent)
		if err != nil {
			t.Fatal(err)
		}
		for _, child := range children {
			got = append(got, child.String())
			walk(b.Paths.Container(child), child)
		}
	}
	walk(b.Paths.Root(), container.ID{})
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are the containers %q, want %q", got, want)
	}
	mounts, err := mounttest.Points(b.Paths.Root())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if !slices.ContainsFunc(want, func(at string) bool { return strings.HasPrefix(m, b.Paths.Container(id(t, at))+"/") }) {
			t.Errorf("still mounted: %s", m)
		}
	}
}

// record is a container's file `layers`, as anybody can read it.
func (b *bench) record(t testing.TB, at string) map[string][]image.Digest {
	t.Helper()
	data, err := os.ReadFile(b.Paths.Layers(id(t, at)))
	if err != nil {
		t.Fatal(err)
	}
	var rec struct {
		Version  int
		Rootfses map[string]struct{ Layers []image.Digest }
	}
	if err := json.Unmarshal(data, &rec); err != nil || rec.Version != 1 {
		t.Fatalf("version %d: %v", rec.Version, err)
	}
	layers := make(map[string][]image.Digest)
	for rootfsID, use := range rec.Rootfses {
		layers[rootfsID] = use.Layers
	}
	return layers
}

// inStore lists a directory of the layer store.
func (b *bench) inStore(t testing.TB, sub string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.Layers.Dir(), sub))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (b *bench) sweep(t testing.TB) int {
	t.Helper()
	swept, err := b.Sweep(t.Context())
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	return len(swept.Layers)
}

// wantLogged compares what was logged since the last call: something that says all of
// this, or nothing.
func (b *bench) wantLogged(t testing.TB, says ...string) {
	t.Helper()
	got := b.log.take()
	if len(says) == 0 && got != "" {
		t.Errorf("logged is %q", got)
	}
	for _, words := range says {
		if !strings.Contains(got, words) {
			t.Errorf("logged is %q, want it to say %q", got, words)
		}
	}
}

func (b *bench) wantCount(t testing.TB, name string, want float64) {
	t.Helper()
	if got, ok := b.metrics.Snapshot()[name]; got != want || !ok {
		t.Errorf("%s is %v, want %v", name, got, want)
	}
}

func wantFile(t testing.TB, rootfs, name string) {
	t.Helper()
	if info, err := os.Stat(filepath.Join(rootfs, name)); err != nil || info.Size() < 3000 {
		t.Errorf("%s in %s: %v", name, rootfs, err)
	}
}

func wantNoFile(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v; want that it does not exist", path, err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, class error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if class != nil && !errors.Is(err, class) {
		t.Errorf("error is %q, want the class %q", err, class)
	}
	for _, words := range says {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("error is %q, want it to say %q", err, words)
		}
	}
}
