//go:build linux

package bench

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"berth/internal/testrig"
)

// BenchmarkCheck makes the tars of an image's layers again from what is on disk and
// compares them with their digests, beside sha256sum of these tars.
func BenchmarkCheck(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.DebianImage(b, reg, "debian:1")
	image := reg.Direct() + "/debian:1"
	disk := testrig.LoopFS(b, "ext4", 8<<10)
	program := testrig.Berth(b)
	setUp(b, berth(program, disk+"/berth", "pull", image))
	testrig.SkopeoUmoci(b, image, disk)
	tars, size := inflateAll(b, filepath.Join(disk, "oci", "blobs", "sha256"), disk)
	contest{title: fmt.Sprintf("Check 7 layers, 16 000 files, %d MB", size>>20), disk: disk, contenders: []contender{
		{"berth check", nil, func(*testing.B) (work, func()) {
			return programs(berth(program, disk+"/berth", "check")), nothing
		}},
		{"sha256sum of the tars", nil, func(*testing.B) (work, func()) {
			return programs(append([]string{"sha256sum"}, tars...)), nothing
		}},
	}}.run(b)
}

// inflateAll inflates those files of a directory that are gzip, which are the layers.
func inflateAll(b *testing.B, from, to string) (tars []string, size int64) {
	b.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		tar := filepath.Join(to, e.Name()+".tar")
		n, err := inflate(filepath.Join(from, e.Name()), tar)
		if errors.Is(err, gzip.ErrHeader) {
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		tars, size = append(tars, tar), size+n
	}
	return tars, size
}

func inflate(from, to string) (size int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	unzipped, err := gzip.NewReader(in)
	if err != nil {
		return 0, fmt.Errorf("inflate %s: %w", from, err)
	}
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return io.Copy(out, unzipped)
}
