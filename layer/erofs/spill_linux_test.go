package erofs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"berth/internal/spill"
)

// watched is a Memory that sees how much of it the process has in its own.
type watched struct {
	*spill.Memory
	blocks int
	most   int64
}

func (w *watched) Block(size int) []byte {
	block := w.Memory.Block(size)
	if block != nil {
		w.blocks += size
	}
	w.look()
	return block
}

func (w *watched) Release() {
	w.look()
	w.Memory.Release()
}

func (w *watched) look() { w.most = max(w.most, mappedFiles()) }

func mappedFiles() int64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(statm))[2], 10, 64)
	return pages * int64(os.Getpagesize())
}

// Whatever a large tree has much of is in another memory, of which the process has little in its
// own, and the index is as without one.
func TestALargeTreeLiesInAnotherMemory(t *testing.T) {
	const deviceSize = 1 << 40
	file := Attr{Mode: syscall.S_IFREG}
	for name, fill := range map[string]func(t *testing.T, b *Builder){
		"files": func(t *testing.T, b *Builder) { fillLikeImage(t, b, 400_000) },
		"long names of a directory, in order": func(t *testing.T, b *Builder) {
			for i := range 100_000 {
				made(t)(b.Make(Root, fmt.Sprintf("%0250d", i), file))
			}
		},
		"long names of a directory, in no order": func(t *testing.T, b *Builder) {
			for i := range 100_000 {
				made(t)(b.Make(Root, fmt.Sprintf("%0250d", i*48_271%100_003), file))
			}
		},
		"attributes": func(t *testing.T, b *Builder) {
			for i := range 20_000 {
				n := made(t)(b.Make(Root, strconv.Itoa(i), file))
				if err := b.SetXattrs(n, map[string]string{"security.ima": fmt.Sprintf("%02000d", i)}); err != nil {
					t.Fatal(err)
				}
			}
		},
		"data of the index": func(t *testing.T, b *Builder) {
			for i := range 80_000 {
				e := b.AddData([]byte(fmt.Sprintf("%0512d", i)))
				if err := b.SetContent(made(t)(b.Make(Root, strconv.Itoa(i), file)), e.Length, e); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := sha256.New()
			b := NewBuilder()
			fill(t, b)
			if err := b.Write(want, deviceSize); err != nil {
				t.Fatal(err)
			}
			b = NewBuilder()
			before, heap := mappedFiles(), inHeap()
			w := &watched{Memory: spill.In(t.TempDir())}
			defer w.Close()
			b.SetMemory(w)
			fill(t, b)
			got, begin := sha256.New(), allocated()
			if err := b.Write(got, deviceSize); err != nil {
				t.Fatal(err)
			}
			all := allocated() - begin
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Error("the index is another one")
			}
			if w.blocks == 0 {
				t.Skip("the file system of the test has no files without a name")
			}
			// A copy that grows, and the whole as it is written, would take several times as much.
			if all > 2*int64(w.blocks) {
				t.Errorf("writing takes %d bytes of the heap for %d", all, w.blocks)
			}
			w.look()
			if most := w.most - before; most > w.Room()+4<<20 {
				t.Errorf("%d bytes of %d are in memory", most, w.blocks)
			}
			if heap := inHeap() - heap; heap > ofHeap+2<<20 {
				t.Errorf("%d bytes are in the heap", heap)
			}
			runtime.KeepAlive(b)
		})
	}
}

func made(t *testing.T) func(n Node, err error) Node {
	return func(n Node, err error) Node {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// inHeap is what of the heap is in use.
func inHeap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// allocated is how much the process has ever asked of the heap.
func allocated() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.TotalAlloc)
}
