package backendtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"berth/container"
	"berth/provisioner/backend"
)

// provisioning: where, when and how often root filesystems are made.
var provisioning = []check{
	{"no layers are invalid", nil, func(t *testing.T, s *suite) { s.place(t).refuses() }},
	{"whiteouts are invalid where one layer is all", func(t Traits) bool { return t.MaxLayers == 1 }, func(t *testing.T, s *suite) {
		p := s.place(t)
		p.refuses(p.layers(Tree{whiteout("a")})...)
		p.refuses(p.layers(Tree{opaque("d")})...)
	}},
	{"a Provision that is interrupted fails, or is whole", nil, checkInterruption},
	{"100 root filesystems can be made and destroyed at once", nil, checkConcurrency},
	{"paths are any bytes, of any length", nil, checkOddPaths},
	{"mounts that the host makes propagate into the container, and not out of it", mounts, checkPropagation},
	{"the backend proves by a probe that it works", nil, func(t *testing.T, s *suite) {
		p := s.place(t)
		if err := backend.Probe(context.Background(), p.backend, p.backendDir(), p.backendDir()); err != nil {
			t.Error(err)
		}
		if names, err := readNames(p.backendDir()); err != nil || len(names) > 0 {
			t.Errorf("the probe left %q, %v", names, err)
		}
	}},
}

// refuses checks that the backend calls layers invalid, and makes nothing of them.
func (p *place) refuses(layers ...backend.Layer) {
	p.t.Helper()
	rootfs := p.rootfs("refused")
	err := p.backend.Provision(context.Background(), layers, rootfs, p.backendDir())
	if !errors.Is(err, container.ErrInvalid) {
		p.t.Errorf("the error is %v, want %v", err, container.ErrInvalid)
	}
	p.destroy(rootfs, false)
	p.nothingLeft()
}

func checkInterruption(t *testing.T, s *suite) {
	tree := largeDirectory(1000)
	p := s.place(t)
	layers := p.layers(tree)
	for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		rootfs := p.rootfs(after.String())
		ctx, cancel := context.WithTimeoutCause(context.Background(), after, errInterrupted)
		err := p.backend.Provision(ctx, layers, rootfs, p.backendDir())
		cancel()
		switch {
		case err == nil:
			p.shows(rootfs, stacked(tree))
		case !errors.Is(err, errInterrupted):
			t.Errorf("after %s the error is %v", after, err)
		}
		if _, err := p.backend.Destroy(context.Background(), rootfs, p.backendDir()); err != nil {
			t.Error(err)
		}
		p.nothingLeft()
	}
}

var errInterrupted = errors.New("interrupted")

// checkConcurrency: ten containers, each with ten root filesystems.
func checkConcurrency(t *testing.T, s *suite) {
	p := s.place(t)
	trees := []Tree{{Dir("d"), File("d/a", "a"), File("b", "b")}, {Dir("d"), whiteout("b"), File("d/c", pattern(10_000))}}
	if s.MaxLayers == 1 {
		trees = trees[:1]
	}
	layers := p.layers(trees...)
	want := stacked(trees...)
	var all sync.WaitGroup
	for range 10 {
		container := s.place(t)
		for i := range 10 {
			rootfs := container.rootfs(fmt.Sprint(i))
			all.Go(func() {
				if err := p.backend.Provision(context.Background(), layers, rootfs, container.backendDir()); err != nil {
					t.Error(err)
				} else {
					p.shows(rootfs, want)
				}
				if existed, err := p.backend.Destroy(context.Background(), rootfs, container.backendDir()); !existed || err != nil {
					t.Errorf("Destroy returned %v, %v", existed, err)
				}
			})
		}
	}
	all.Wait()
}

func checkOddPaths(t *testing.T, s *suite) {
	for _, name := range []string{"with space", " ", "comma,comma", "colon:colon", `back\slash`, `\`, `\040`, "new\nline", "tab\ttab", "#number",
		"\xff\xfe", `quote"'`, "upperdir=x,workdir=y", "a:b,c\\:d\\,e", "*?[]", "$HOME", strings.Repeat("n", 255)} {
		t.Run(fmt.Sprintf("%.20q", name), func(t *testing.T) { s.checkPath(t, name) })
	}
	long := strings.Repeat(strings.Repeat("n", 254)+"/", 14)
	t.Run("3570 bytes", func(t *testing.T) { s.checkPath(t, long) })
}

func (s *suite) checkPath(t *testing.T, name string) {
	p := s.placeAt(t, filepath.Join(s.dir, fmt.Sprint("place-", s.places.Add(1)), name))
	trees := []Tree{{Dir("d"), File("d/a", "a")}, {Dir("d"), File("d/b", "b"), whiteout("d/a")}}
	if s.MaxLayers == 1 {
		trees = trees[:1]
	}
	layers := p.layers(trees...)
	unchanged := p.unchanged()
	rootfs := p.provision(layers...)
	p.shows(rootfs, stacked(trees...))
	unchanged()
	p.destroy(rootfs, true)
	p.nothingLeft()
}

// checkPropagation: the mount is a slave of its like in the peer of the file system
// that it lies on, and shared.
func checkPropagation(t *testing.T, s *suite) {
	p := s.place(t)
	peer := filepath.Join(p.dir, "peer")
	err := errors.Join(
		unix.Mkdir(peer, 0o700),
		unix.Mount(p.backendDir(), p.backendDir(), "", unix.MS_BIND, ""),
		unix.Mount("", p.backendDir(), "", unix.MS_SHARED, ""),
		unix.Mount(p.backendDir(), peer, "", unix.MS_BIND, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(peer, 0), unix.Unmount(p.backendDir(), 0)); err != nil {
			t.Error(err)
		}
	})
	rootfs := p.provision(p.layers(someTree)...)
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(rootfs))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("mounts on the root filesystem: %v, %v", mounts, err)
	}
	if o := mounts[0].Optional; !strings.Contains(o, "shared:") || !strings.Contains(o, "master:") {
		t.Errorf("the propagation is %q, want shared and slave", o)
	}

	container := filepath.Join(p.dir, "container")
	err = errors.Join(
		unix.Mkdir(container, 0o700),
		unix.Mount(rootfs, container, "", unix.MS_BIND, ""),
		unix.Mount("", container, "", unix.MS_SLAVE, ""))
	if err != nil {
		t.Fatal(err)
	}
	bind(t, p.dir+"/layers", rootfs+"/d")
	if _, _, err := readNode(container + "/d/1"); err != nil {
		t.Errorf("a mount of the host is not seen in the container: %v", err)
	}
	bind(t, p.dir+"/layers", container+"/mnt")
	if _, _, err := readNode(rootfs + "/mnt/1"); err == nil {
		t.Error("a mount of the container is seen on the host")
	}
	if err := unix.Unmount(container, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	p.destroy(rootfs, true)
}
