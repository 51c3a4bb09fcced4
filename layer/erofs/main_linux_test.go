package erofs

import (
	"testing"

	"berth/internal/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }
