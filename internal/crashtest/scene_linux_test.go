package crashtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"berth/container"
	"berth/engine"
	"berth/image"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
)

// workshop has what all scenes of a test share.
type workshop struct {
	registry    *testrig.RegistryServer
	references  map[string]string
	acis        string
	launcherDir string
	cgroupsRoot string
	// memory is where the file systems lie: what the disk below them does is not the matter.
	memory string
	// moved says that the tag "moving" names the image two, not one.
	moved atomic.Bool
	// tree is what a root filesystem of the image one holds.
	tree []testrig.Entry
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	testrig.RequireRoot(t)
	berth := testrig.Berth(t)
	w := &workshop{registry: testrig.Registry(t), references: make(map[string]string),
		launcherDir: filepath.Dir(berth.Path), cgroupsRoot: berth.CgroupsRoot, memory: testrig.TempMemory(t)}
	for _, variant := range testrig.SmallVariants {
		w.references[variant] = testrig.SmallImage(t, w.registry, "small:"+variant, variant)
	}
	w.references["moving"] = w.registry.Host() + "/small:moving"
	w.registry.Intercept(w.move)
	archive := filepath.Join(testrig.TempDir(t), "archive")
	testrig.Skopeo(t, "copy", "--quiet", "--src-tls-verify=false", "docker://"+w.references["three"], "docker-archive:"+archive+":small:archive")
	w.references["archive"] = "docker-archive:" + archive
	w.acis = testrig.TempDir(t) + "/"
	w.references["appc"] = w.appcImage(t)
	direct := strings.Replace(w.references["three"], w.registry.Host(), w.registry.Direct(), 1)
	w.references["schema 1"] = w.registry.Push(t, "docker://"+direct, "old:1", "--src-tls-verify=false", "--format=v2s1")
	var err error
	if w.tree, err = testrig.Manifest(testrig.SkopeoUmoci(t, w.references["one"], testrig.TempDir(t))); err != nil {
		t.Fatal(err)
	}
	return w
}

// appcImage makes an Appc image that depends on another one.
func (w *workshop) appcImage(t *testing.T) string {
	t.Helper()
	put := func(name string, manifest map[string]any) {
		manifest["acKind"], manifest["acVersion"], manifest["name"] = "ImageManifest", "0.8.11", name
		path := w.acis + name + "-latest-linux-" + testrig.ACIArch() + ".aci"
		aci := testrig.ACI(t, manifest, testrig.ACIDir("rootfs"), testrig.ACIFile("rootfs/"+name, strings.Repeat(name, 1000)))
		if err := os.WriteFile(path, testrig.Compress(t, "gzip", aci), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("base", map[string]any{})
	put("app", map[string]any{"dependencies": []any{map[string]any{"imageName": "base"}}})
	return "appc:app"
}

// move makes the registry answer for the tag "moving".
func (w *workshop) move(_ http.ResponseWriter, req *http.Request) bool {
	if path, ok := strings.CutSuffix(req.URL.Path, "/manifests/moving"); ok {
		variant := "one"
		if w.moved.Load() {
			variant = "two"
		}
		req.URL.Path = path + "/manifests/" + variant
	}
	return false
}

// scene is a place with operations in it, and the test that watches.
type scene struct {
	*testing.T
	*workshop
	place
}

// newScene makes a place in dir, or in a directory of its own.
func (w *workshop) newScene(t *testing.T, dir, backend string) *scene {
	t.Helper()
	if dir == "" {
		dir = filepath.Join(testrig.TempDir(t), "mnt")
		file := filepath.Join(w.memory, rand.Text())
		testrig.MakeFS(t, "ext4", file, 24)
		testrig.MountFS(t, "ext4", file, dir)
	}
	return &scene{t, w, place{Dir: dir, LauncherDir: w.launcherDir, CgroupsRoot: w.cgroupsRoot, Backend: backend, References: w.references, ACIs: w.acis}}
}

// in opens an engine, which has to succeed, as has what is done with it.
func (s *scene) in(do func(ctx context.Context, e *engine.Engine) error) {
	s.Helper()
	ctx := context.WithoutCancel(s.Context())
	if err := s.with(ctx, func(e *engine.Engine) error { return do(ctx, e) }); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) absent(name string) {
	s.Helper()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		if _, err := e.Images.Provisioner.Remove(ctx, s.image(name)); err != nil && !errors.Is(err, container.ErrNotFound) {
			return err
		}
		_, err := e.Images.Provisioner.Sweep(ctx)
		return err
	})
}

func (s *scene) present(name string) {
	s.Helper()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		_, _, err := e.Pull(ctx, s.again(name))
		return err
	})
}

func (s *scene) sweep() {
	s.Helper()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		_, err := e.Images.Provisioner.Sweep(ctx)
		return err
	})
}

// provisioned makes the container, unless it is there, and has it write something.
func (s *scene) provisioned(name string) {
	s.Helper()
	if _, err := rootfsOf(s.place, theContainer); err == nil {
		return
	}
	s.in(func(ctx context.Context, e *engine.Engine) error {
		rootfs, err := e.Provision(ctx, theContainer, s.image(name))
		if err != nil {
			return err
		}
		return errors.Join(os.Remove(filepath.Join(rootfs.Path, "etc/top")),
			os.WriteFile(filepath.Join(rootfs.Path, "etc/new"), []byte("new"), 0o600))
	})
}

func (s *scene) noContainer() {
	s.Helper()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		_, err := e.Destroy(ctx, theContainer)
		return errors.Join(e.Recover(ctx), err)
	})
	s.wantNoContainer()
}

// leftOvers are those of processes that were killed, and of a container of before the
// last boot.
func (s *scene) leftOvers(image string) {
	s.Helper()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		if _, err := rootfsOf(s.place, theContainer); err == nil {
			return nil
		}
		_, err := e.Images.Provisioner.Provision(ctx, theContainer, s.image(image))
		return err
	})
	const name = "AAAAAAAAAAAAAAAAAAAAAAAAAA" // as leases have them
	dead := s.store("staging", name, "1", "fs")
	if err := errors.Join(os.MkdirAll(dead, 0o700), os.WriteFile(filepath.Join(dead, "file"), nil, 0o600),
		os.WriteFile(s.store("leases", name), nil, 0o600)); err != nil {
		s.Fatal(err)
	}
}

// interrupted leaves what is kept of a blob whose download nobody carries on.
func (s *scene) interrupted() {
	s.Helper()
	if err := errors.Join(os.MkdirAll(s.store("docker/partial"), 0o700), os.WriteFile(s.abandoned(), []byte("begun"), 0o600)); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) abandoned() string { return s.store("docker/partial", image.DigestOf(nil).Hex()) }

func (s *scene) record(e *engine.Engine, name string) (store.Record, bool) {
	s.Helper()
	st := e.Stores[s.image(name).GetType()]
	reference, err := st.Reference(s.image(name))
	if err != nil {
		s.Fatal(err)
	}
	recorded, err := st.List(s.Context())
	if err != nil {
		s.Error(err)
	}
	at := slices.IndexFunc(recorded, func(r store.Record) bool { return r.Reference == reference })
	if at < 0 {
		return store.Record{}, false
	}
	return recorded[at], true
}

// damage changes a byte of an image's content, in the form that the backend has.
func (s *scene) damage(name string) (fault string) {
	s.Helper()
	s.in(func(_ context.Context, e *engine.Engine) error {
		rec, ok := s.record(e, name)
		if !ok {
			return container.ErrNotFound
		}
		fault = treeDamaged
		if e.Images.Provisioner.Form() == layer.EROFS {
			fault = tarDamaged
		}
		path, err := layerFile(s.place, rec.Layers, damageable[fault])
		if err != nil {
			return err
		}
		return flip(path)
	})
	return fault
}

func (s *scene) wantImage(name string, present bool) {
	s.Helper()
	s.in(func(_ context.Context, e *engine.Engine) error {
		if _, ok := s.record(e, name); ok != present {
			s.Errorf("the image %s is recorded: %v, want %v", name, ok, present)
		}
		return nil
	})
}

// wantLayersOf checks that one image has the layers of another one.
func (s *scene) wantLayersOf(name, like string) {
	s.Helper()
	s.present(like)
	s.in(func(_ context.Context, e *engine.Engine) error {
		got, _ := s.record(e, name)
		want, _ := s.record(e, like)
		if got.ID != want.ID || !slices.Equal(got.Layers, want.Layers) {
			s.Errorf("%s is %+v, want what %s is: %+v", name, got, like, want)
		}
		return nil
	})
}

// wantContainer checks that the container has the image one.
func (s *scene) wantContainer() {
	s.Helper()
	rootfs, err := rootfsOf(s.place, theContainer)
	if err != nil {
		s.Error(err)
		return
	}
	got, err := testrig.Manifest(rootfs)
	if err != nil {
		s.Error(err)
	}
	for _, line := range testrig.Compare(s.tree, got, unnamed) {
		s.Error(line)
	}
}

// unnamed excuses directories that no layer has an entry for, and the root, which the
// uppermost layer has none for.
var unnamed = testrig.Exception{
	Field:  testrig.MTime,
	Path:   func(path string) bool { return slices.Contains([]string{".", "usr", "usr/share"}, path) },
	Reason: "umoci leaves them the time at which it made them",
}

func (s *scene) wantNoContainer() {
	s.Helper()
	left, err := os.ReadDir(s.containers())
	if err != nil || len(left) != 0 {
		s.Errorf("containers: %v, %v, want none", left, err)
	}
}

// faultsOf finds all that is visible and wrong, without the help of what looks for
// faults in berth: every record can be read, each of its layers is there, and every
// layer has its digest.
func faultsOf(ctx context.Context, e *engine.Engine) (faults []string) {
	ctx = context.WithoutCancel(ctx)
	records, err := e.Images.List(ctx)
	if err != nil {
		faults = append(faults, err.Error())
	}
	for _, rec := range records {
		for _, id := range rec.Layers {
			if _, err := e.Layers.InfoOfAny(id); err != nil {
				faults = append(faults, fmt.Sprintf("image %s: %v", rec.Reference, err))
			}
		}
	}
	ids, err := e.Layers.List()
	if err != nil {
		faults = append(faults, err.Error())
	}
	for _, id := range ids {
		forms, err := e.Layers.Forms(id)
		if err != nil {
			faults = append(faults, err.Error())
		}
		for _, form := range forms {
			problems, err := e.Layers.Check(ctx, id, form)
			if err != nil || len(problems) > 0 {
				faults = append(faults, fmt.Sprintf("layer %s: %v, %v", id, problems, err))
			}
		}
	}
	return faults
}

// recovers starts a process in the place, which finds all in order, or puts it so. Only
// what an operation is to mend may still be broken.
func (s *scene) recovers(broken ...string) {
	s.Helper()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		if err := e.Recover(ctx); err != nil {
			s.Errorf("recover: %v", err)
		}
		for _, fault := range faultsOf(ctx, e) {
			if !isOne(fault, broken) {
				s.Error(fault)
			}
		}
		return nil
	})
	left, err := s.inFlight()
	if err != nil || len(left) > 0 {
		s.Errorf("nobody is at work, and left are %q, %v", left, err)
	}
}

// isOne reports whether a fault is one of those.
func isOne(fault string, those []string) bool {
	return slices.ContainsFunc(those, func(one string) bool { return strings.Contains(fault, one) })
}

// outcome is what an operation has made of the place and of the host.
type outcome struct {
	files []string
	host  testrig.State
}

func (s *scene) look() outcome {
	s.Helper()
	files, err := s.files()
	if err != nil {
		s.Fatal(err)
	}
	return outcome{files, testrig.HostState(s, testrig.Scope{
		Only: []string{s.Dir + "/"}, Cgroups: []string{s.CgroupsRoot + "/"}})}
}

// wantSame checks that an operation had the outcome that it has when nothing happens.
func (s *scene) wantSame(want, got outcome) {
	s.Helper()
	for _, name := range want.files {
		if !slices.Contains(got.files, name) {
			s.Errorf("missing is %s", name)
		}
	}
	for _, name := range got.files {
		if !slices.Contains(want.files, name) {
			s.Errorf("left is %s", name)
		}
	}
	for _, line := range want.host.Diff(got.host) {
		s.Errorf("on the host: %s", line)
	}
}
