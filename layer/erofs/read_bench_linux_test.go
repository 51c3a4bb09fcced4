package erofs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/internal/testrig"
)

const (
	largeFile  = 100 << 20
	smallFiles = 5000
	smallFile  = 20 << 10
)

// BenchmarkRead is what decided for blocks of 512 bytes over the tar as it is, against
// blocks of 4 KiB over data that was moved to where pages begin: 200 MB, of which half
// is one file, on an ext4 of its own. The tree of ext4 is for comparison. Cold means
// that nothing of it, of ext4 and of its device is in memory.
//
// Random reads and faults are 5000, of the large file.
func BenchmarkRead(b *testing.B) {
	testrig.RequireRoot(b)
	image := filepath.Join(b.TempDir(), "image")
	testrig.MakeFS(b, "ext4", image, 1500)
	disk := testrig.TempDir(b)
	unmount := testrig.MountFS(b, "ext4", image, disk)
	tree := filepath.Join(disk, "tree")
	for name, bits := range map[string]uint{"512": 9, "4096": 12} {
		r := newTreeOf(b, newBuilder(bits))
		r.file("large", random(1, largeFile))
		for i := range smallFiles {
			r.file(fmt.Sprint("small", i), random(uint64(i), smallFile+i%4096))
		}
		dir := filepath.Join(disk, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		r.files(dir)
		if bits > 9 {
			continue
		}
		if err := os.Mkdir(tree, 0o755); err != nil {
			b.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(r.nodes))[1:] {
			r.must(os.WriteFile(filepath.Join(tree, name), r.content[r.nodes[name]], 0o644))
		}
	}
	unmount()

	work := []struct {
		name string
		do   func(dir string) error
	}{{"sequential", readAll}, {"random", readRandom}, {"mmap", fault}}
	for _, form := range []string{"512", "4096", "tree"} {
		for _, w := range work {
			for _, state := range []string{"cold", "warm"} {
				b.Run(form+"/"+w.name+"/"+state, func(b *testing.B) {
					var took []time.Duration
					for b.Loop() {
						unmount := testrig.MountFS(b, "ext4", image, disk)
						at, detach := filepath.Join(disk, "tree"), func() {}
						if form != "tree" {
							at, detach = attach(b, filepath.Join(disk, form))
						}
						if state == "warm" {
							if err := errors.Join(w.do(at), w.do(at)); err != nil {
								b.Fatal(err)
							}
						}
						start := time.Now()
						if err := w.do(at); err != nil {
							b.Fatal(err)
						}
						took = append(took, time.Since(start))
						detach()
						unmount()
						if err := forget(image); err != nil {
							b.Fatal(err)
						}
					}
					slices.Sort(took)
					b.ReportMetric(0, "ns/op") // mounts are in it
					b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
					b.ReportMetric(float64(took[0].Microseconds())/1000, "least-ms")
				})
			}
		}
	}
}

func attach(tb testing.TB, dir string) (at string, detach func()) {
	d, err := mount.New("erofs", filepath.Join(dir, "index"), []mount.Option{{Key: "device", Value: filepath.Join(dir, "tar")}}, mount.ReadOnly)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	at = testrig.TempDir(tb)
	if err := d.Attach(at); err != nil {
		tb.Fatal(err)
	}
	return at, func() {
		if err := unix.Unmount(at, 0); err != nil {
			tb.Fatal(err)
		}
	}
}

// forget has a file in no page cache.
func forget(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
}

func readAll(dir string) error {
	buffer := make([]byte, 128<<10)
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		for err == nil {
			_, err = f.Read(buffer)
		}
		if err == io.EOF {
			return nil
		}
		return err
	})
}

func readRandom(dir string) error {
	f, err := os.Open(filepath.Join(dir, "large"))
	if err != nil {
		return err
	}
	defer f.Close()
	page := make([]byte, 4096)
	source := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		if _, err := f.ReadAt(page, source.Int64N(largeFile/4096)*4096); err != nil {
			return err
		}
	}
	return nil
}

// touched keeps the reads of fault from being optimized away.
var touched byte

func fault(dir string) error {
	f, err := os.Open(filepath.Join(dir, "large"))
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := unix.Mmap(int(f.Fd()), 0, largeFile, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	source := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		touched += content[source.IntN(largeFile)]
	}
	return unix.Munmap(content)
}
