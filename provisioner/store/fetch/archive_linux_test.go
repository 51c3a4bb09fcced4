package fetch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"berth/container"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store/storetest"
)

func compressed(t testing.TB, content []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(err)
	return w.EncodeAll(content, nil)
}

// What an archive is uncompressed into has no name, and is bounded.
func TestACompressedArchiveOnDisk(t *testing.T) {
	dir := testrig.TempDir(t)
	tmp := filepath.Join(dir, "tmp")
	must(os.Mkdir(tmp, 0o700))
	file := filepath.Join(dir, "a.tar.zst")
	must(os.WriteFile(file, compressed(t, storetest.Tar(storetest.File("zeros", string(make([]byte, 4<<20))))), 0o600))
	open := func() *Archive {
		a, err := OpenArchive(file, func() (string, error) { return tmp, nil })
		must(err)
		t.Cleanup(func() { must(a.Close()) })
		return a
	}
	a := open()
	if err := a.Index(t.Context()); err != nil || !a.Has("zeros") {
		t.Errorf("index: %v", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("there is %v, %v", left, err)
	}
	bomb := open()
	bomb.limits = layer.Limits{Base: 1 << 20, Ratio: 10}
	storetest.WantError(t, bomb.Index(t.Context()), container.ErrInvalid, "a decompression bomb?")
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left is %v, %v", left, err)
	}
}
