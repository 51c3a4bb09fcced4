package bind

import (
	"testing"

	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

func TestConformance(t *testing.T) {
	backendtest.Run(t, func() backend.Backend { return New() }, backendtest.Traits{Mounts: true, MaxLayers: 1})
}
