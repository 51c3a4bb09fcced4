package crashtest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/engine"
	"berth/internal/testrig"
	"berth/layer"
)

// ballast fills the file system of a place, but for so many bytes, and returns what
// makes room again.
func (s *scene) ballast(leave int64) (remove func()) {
	s.Helper()
	path := filepath.Join(s.Dir, "ballast")
	file, err := os.Create(path)
	if err != nil {
		s.Fatal(err)
	}
	defer file.Close()
	// To the last block, which what statfs(2) says does not tell: some are reserved.
	var size int64
	for part := 1 << 20; part >= 512; {
		n, err := file.Write(make([]byte, part))
		size += int64(n)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			s.Fatal(err)
		}
		if err != nil {
			part /= 2
		}
	}
	if err := errors.Join(file.Truncate(max(0, size-leave)), file.Sync()); err != nil && !errors.Is(err, syscall.ENOSPC) {
		s.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			s.Fatal(err)
		}
	}
}

// A disk that fills up in the middle of it: the error says so and what to do, nothing
// stays, and when there is room it works.
func TestADiskThatFillsUp(t *testing.T) {
	w := newWorkshop(t)
	for _, name := range []string{"pull", "pull an archive", "provision a copy", "provision for an agent"} {
		op, err := findOperation(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			s := w.newScene(t, "", op.backend)
			s.Runtime = testrig.TempDir(t)
			want := s.undisturbed(op)
			failed := 0
			for leave := int64(0); leave < 200<<10; leave += 16 << 10 {
				op.ready(s)
				remove := s.ballast(leave)
				err := s.do(op)
				if err != nil {
					failed++
					if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free space") {
						t.Errorf("with %d bytes free: %v", leave, err)
					}
					// Before there is room.
					s.recovers()
				}
				remove()
				if err == nil {
					op.done(s)
				}
				s.succeedsAgain(op, err != nil, want)
			}
			if failed < 3 {
				t.Errorf("the disk filled up %d times", failed)
			}
		})
	}
}

// To make room, no room is needed.
func TestRoomIsMadeOnAFullDisk(t *testing.T) {
	w := newWorkshop(t)
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		for _, name := range []string{"prune", "rmi", "destroy", "destroy a copy", "recover"} {
			op, err := findOperation(name)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(fstype+" "+name, func(t *testing.T) {
				s := w.newScene(t, testrig.LoopFS(t, fstype, 64), op.backend)
				s.Runtime = testrig.TempDir(t)
				op.ready(s)
				remove := s.ballast(0)
				if err := s.with(t.Context(), func(e *engine.Engine) error {
					return errors.Join(e.Recover(t.Context()), op.run(t.Context(), e, s.place))
				}); err != nil {
					t.Error(err)
				}
				remove()
				op.done(s)
				s.recovers()
			})
		}
	}
}

// However many layers there are.
func TestManyLayersAreSweptFromAFullDisk(t *testing.T) {
	w := newWorkshop(t)
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			s := w.newScene(t, testrig.LoopFS(t, fstype, 64), "overlay")
			s.Runtime = testrig.TempDir(t)
			s.in(func(ctx context.Context, e *engine.Engine) error { return unpackMany(ctx, e, 100) })
			remove := s.ballast(0)
			s.in(func(ctx context.Context, e *engine.Engine) error {
				swept, err := e.Images.Provisioner.Sweep(ctx)
				if len(swept.Layers) != 100 {
					t.Errorf("%d layers were swept", len(swept.Layers))
				}
				return err
			})
			remove()
			s.recovers()
		})
	}
}

// unpackMany makes layers that no image has.
func unpackMany(ctx context.Context, e *engine.Engine, n int) (err error) {
	lease, err := e.Layers.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	for i := range n {
		var text bytes.Buffer
		archive := tar.NewWriter(&text)
		if err := archive.WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", i), Mode: 0o644}); err != nil {
			return err
		}
		if err := archive.Close(); err != nil {
			return err
		}
		if _, err := lease.Unpack(ctx, layer.Tree, "", &text); err != nil {
			return err
		}
	}
	return lease.Commit(ctx)
}
