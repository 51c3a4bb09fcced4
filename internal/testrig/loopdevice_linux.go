package testrig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// LoopDevice returns the path of a block device of so many MiB, which reads as zeros. It
// is freed at the end of the test.
func LoopDevice(tb testing.TB, sizeMB int) string {
	tb.Helper()
	RequireRoot(tb)
	image := filepath.Join(TempDir(tb), "image")
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(int64(sizeMB) << 20)
		f.Close()
	}
	if err != nil {
		tb.Fatalf("make the file of a loop device: %v", err)
	}
	device := strings.TrimSpace(tool{}.run(tb, "losetup", "--find", "--show", image))
	tb.Cleanup(func() { tool{}.run(tb, "losetup", "--detach", device) })
	return device
}
