package spill

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestBlocksStayAsTheyAre(t *testing.T) {
	dir := t.TempDir()
	m := In(dir)
	var blocks [][]byte
	for i := range 100 {
		block := m.Block(100_001)
		if block == nil {
			t.Skip("the file system of the test has no files without a name")
		}
		if uintptr(unsafe.Pointer(&block[0]))%8 != 0 || len(block) < 100_001 || strings.Trim(string(block), "\x00") != "" {
			t.Fatalf("block %d: %d bytes at %p, or not of zeros", i, len(block), &block[0])
		}
		binary.LittleEndian.PutUint32(block, uint32(i))
		binary.LittleEndian.PutUint32(block[len(block)-4:], uint32(i))
		blocks = append(blocks, block)
		if i%7 == 0 {
			m.Release()
		}
	}
	if large := m.Block(3*regionSize + 1); len(large) < 3*regionSize+1 {
		t.Errorf("a block larger than what is mapped at a time has %d bytes", len(large))
	} else {
		large[3*regionSize] = 1
	}
	for i, block := range blocks {
		if binary.LittleEndian.Uint32(block) != uint32(i) || binary.LittleEndian.Uint32(block[len(block)-4:]) != uint32(i) {
			t.Errorf("block %d has changed", i)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("it has names: %v, %v", left, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if m.Block(8) != nil {
		t.Error("there are blocks after Close")
	}
}

func TestReleasedBlocksAreNotOfTheProcess(t *testing.T) {
	m := In(t.TempDir())
	defer m.Close()
	const size, count = 1 << 20, 64
	begin := mapped(t)
	for range count {
		block := m.Block(size)
		if block == nil {
			t.Skip("the file system of the test has no files without a name")
		}
		for i := 0; i < size; i += 4096 {
			block[i] = 1
		}
	}
	m.Release()
	if got := mapped(t) - begin; got > regionSize {
		t.Errorf("%d bytes are in memory", got)
	}
}

// What there is for all is divided among those that have blocks.
func TestRoom(t *testing.T) {
	one, other := In(t.TempDir()), In(t.TempDir())
	alone := one.Room()
	if one.Block(8) == nil || other.Block(8) == nil {
		t.Skip("the file system of the test has no files without a name")
	}
	if got := one.Room(); got != alone/2 {
		t.Errorf("%d bytes of %d for one of two", got, alone)
	}
	if err := errors.Join(other.Close(), other.Close()); err != nil {
		t.Error(err)
	}
	if got := one.Room(); got != alone {
		t.Errorf("%d bytes of %d, alone again", got, alone)
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
}

func TestAPageThatCannotBeReadBack(t *testing.T) {
	m := In(t.TempDir())
	defer m.Close()
	use := func(m *Memory, p *byte) (err error) {
		defer m.Guard(&err)()
		*p = 1
		return nil
	}
	block := m.Block(8)
	if block == nil {
		t.Skip("the file system of the test has no files without a name")
	}
	if err := use(m, &block[0]); err != nil {
		t.Error(err)
	}
	if err := unix.Ftruncate(int(m.file.Fd()), 0); err != nil {
		t.Fatal(err)
	}
	if err := use(m, &block[0]); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), m.dir) {
		t.Errorf("%v", err)
	}
	// What is wrong elsewhere is not its matter.
	defer func() {
		if recover() == nil {
			t.Error("it has taken a fault of others for its own")
		}
	}()
	_ = use(In(t.TempDir()), &block[0])
}

func TestNoRoom(t *testing.T) {
	m := In(filepath.Join(t.TempDir(), "missing"))
	if m.Block(8) != nil {
		t.Error("there is a block in a directory that is not there")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// mapped is how much of files the process has in its memory.
func mapped(t *testing.T) int {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var shared int
	for _, digit := range strings.Fields(string(statm))[2] {
		shared = shared*10 + int(digit-'0')
	}
	return shared * os.Getpagesize()
}
