package backend_test

import (
	"testing"

	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/overlay"
)

func BenchmarkProbe(b *testing.B) {
	dir := mounttest.FileSystem(b, "ext4")
	for b.Loop() {
		if err := backend.Probe(b.Context(), overlay.New(), dir, dir); err != nil {
			b.Fatal(err)
		}
	}
}
