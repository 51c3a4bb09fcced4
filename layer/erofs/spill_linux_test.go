package erofs

import (
	"bytes"
	"os"
	"strconv"
	"strings"
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
