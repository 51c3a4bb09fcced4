package aufs

import (
	"errors"
	"strings"
	"testing"

	"berth/container"
	"berth/internal/mount"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

func TestConformance(t *testing.T) {
	mounttest.RequireRoot(t)
	if err := mount.Knows("aufs"); err != nil {
		t.Skipf("this kernel has no aufs, which mainline Linux lacks: %v", err)
	}
	// The least that a kernel stacks, but for the writable branch.
	backendtest.Run(t, func() backend.Backend { return New() },
		backendtest.Traits{Writable: true, Mounts: true, MaxLayers: fewestBranches - 1, ReservedNames: true})
}

func TestAKernelWithoutAufsIsNamed(t *testing.T) {
	mounttest.RequireRoot(t)
	if mount.Knows("aufs") == nil {
		t.Skip("this kernel has aufs")
	}
	dir := mounttest.FileSystem(t, "ext4")
	layer := backendtest.Tree{backendtest.File("a", "")}.Write(t, dir+"/layer")
	err := New().Provision(t.Context(), []backend.Layer{layer}, dir+"/rootfses/x", dir)
	for what, err := range map[string]error{"Provision": err, "the probe": backend.Probe(t.Context(), New(), dir, dir)} {
		if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "not supported by this kernel") {
			t.Errorf("%s: the error is %v", what, err)
		}
	}
	if existed, err := New().Destroy(t.Context(), dir+"/rootfses/x", dir); existed || err != nil {
		t.Errorf("Destroy returned %v, %v", existed, err)
	}
}

func TestNoLayersAreInvalid(t *testing.T) {
	if err := New().Provision(t.Context(), nil, "/nowhere/rootfses/x", "/nowhere"); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("the error is %v", err)
	}
}
