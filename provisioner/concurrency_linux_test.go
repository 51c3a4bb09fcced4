package provisioner_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/testrig"
	"berth/provisioner"
)

// Many containers come and go while the images that they are made of are removed and
// swept: each finds all of its files, and in the end nothing is left.
func TestManyContainersAtOnce(t *testing.T) {
	const workers, rounds = 32, 3
	b := newBench(t, "overlay")
	names := slices.Sorted(maps.Keys(images))
	churn(t, b, []*provisioner.Provisioner{b.Provisioner}, names, workers, rounds)
}

// As two processes do it: each with its own containers, in one directory.
func TestTwoProvisionersInOneDirectory(t *testing.T) {
	const workers, rounds = 8, 3
	b := newBench(t, "overlay")
	other := b.open(t, filepath.Dir(filepath.Dir(b.Paths.Root())), "copy")
	names := slices.Sorted(maps.Keys(images))
	churn(t, b, []*provisioner.Provisioner{b.Provisioner, other}, names, workers, rounds)
}

func churn(t *testing.T, b *bench, provisioners []*provisioner.Provisioner, names []string, workers, rounds int) {
	t.Helper()
	testrig.NoLeaks(t, testrig.Scope{Only: []string{b.Paths.Root()}})
	var all sync.WaitGroup
	for who, p := range provisioners {
		for n := range workers {
			at := id(t, fmt.Sprintf("c%d-%d", who, n))
			all.Go(func() {
				for round := range rounds {
					name := names[(n+round)%len(names)]
					if err := live(t, b, p, at, name); err != nil {
						t.Errorf("%s: %v", at, err)
					}
				}
			})
		}
	}
	finished := make(chan struct{})
	go func() { all.Wait(); close(finished) }()
	for n := 0; ; n++ {
		select {
		case <-finished:
			b.wantContainers(t)
			wantAllSwept(t, b, names)
			return
		default:
		}
		p := provisioners[n%len(provisioners)]
		_ = p.Stores[v1.Image_DOCKER].Remove(t.Context(), b.Image(names[n%len(names)])) // it may be gone
		if _, err := p.Sweep(t.Context()); err != nil {
			t.Errorf("sweep: %v", err)
		}
		if err := p.Recover(t.Context(), func(container.ID) bool { return true }); err != nil {
			t.Errorf("recover: %v", err)
		}
	}
}

// live is the life of a container with two root filesystems.
func live(t *testing.T, b *bench, p *provisioner.Provisioner, at container.ID, name string) error {
	for range 2 {
		rootfs, err := p.Provision(t.Context(), at, b.Image(name))
		if err != nil {
			return err
		}
		wantFile(t, rootfs.Path, topFile(name))
		if err := os.WriteFile(filepath.Join(rootfs.Path, "written"), []byte(at.String()), 0o600); err != nil {
			return err
		}
		wantFile(t, rootfs.Path, topFile(name))
	}
	existed, err := p.Destroy(t.Context(), at)
	if err == nil && !existed {
		err = errNothing
	}
	return err
}

func wantAllSwept(t *testing.T, b *bench, names []string) {
	t.Helper()
	for _, name := range names {
		_ = b.Stores[v1.Image_DOCKER].Remove(t.Context(), b.Image(name)) // it may be gone
	}
	b.sweep(t)
	for _, sub := range []string{"layers", "staging", "leases"} {
		left, err := os.ReadDir(filepath.Join(b.Layers.Dir(), sub))
		if err != nil || len(left) != 0 {
			t.Errorf("%s has %v (%v)", sub, left, err)
		}
	}
}
