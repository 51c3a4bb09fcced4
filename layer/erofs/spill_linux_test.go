package erofs

import (
	"bytes"
	"fmt"
	"io"
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

// The tree of many files is as without another memory, and not in that of the process.
func TestALargeTreeLiesInAnotherMemory(t *testing.T) {
	const entries, deviceSize = 400_000, 1 << 40
	before := mappedFiles()
	w := &watched{Memory: spill.In(t.TempDir())}
	defer w.Close()
	var got, want bytes.Buffer
	if err := fillLikeImage(t, NewBuilder(), entries).Write(&want, deviceSize); err != nil {
		t.Fatal(err)
	}
	b := NewBuilder()
	b.SetMemory(w)
	if err := fillLikeImage(t, b, entries).Write(&got, deviceSize); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Error("the index is another one")
	}
	if w.blocks == 0 {
		t.Skip("the file system of the test has no files without a name")
	}
	if most := w.most - before; most > int64(w.blocks)/2 {
		t.Errorf("%d bytes of %d are in memory", most, w.blocks)
	}
}

// Of a large directory the names are sorted where they are, and written block by block.
func TestTheNamesOfALargeDirectoryAreNotCopied(t *testing.T) {
	const entries, deviceSize = 100_000, 1 << 20
	w := &watched{Memory: spill.In(t.TempDir())}
	defer w.Close()
	b := NewBuilder()
	b.SetMemory(w)
	for i := range entries {
		if _, err := b.Make(Root, fmt.Sprintf("%0250d", i), Attr{Mode: syscall.S_IFREG}); err != nil {
			t.Fatal(err)
		}
	}
	if w.blocks == 0 {
		t.Skip("the file system of the test has no files without a name")
	}
	w.Memory.Release()
	w.most = 0
	before, begin := mappedFiles(), allocated()
	if err := b.Write(io.Discard, deviceSize); err != nil {
		t.Fatal(err)
	}
	w.look()
	// A copy that grows, and the whole as it is written, would take twelve times as much.
	if heap := allocated() - begin; heap > 4*entries*250 {
		t.Errorf("%d bytes of the heap for %d of names", heap, entries*250)
	}
	if most := w.most - before; most > int64(w.blocks)/2 {
		t.Errorf("%d bytes of %d are in memory", most, w.blocks)
	}
}

// allocated is how much the process has ever asked of the heap.
func allocated() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.TotalAlloc)
}
