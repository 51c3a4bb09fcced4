package spill

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// regionSize is how much is mapped at a time, at least.
const regionSize = 4 << 20

// room is how much of all Memories together should be in the memory of the process, and used how
// many of them have blocks.
const room = 24 << 20

var used atomic.Int64

// Memory is given out in blocks and freed as a whole. It is not safe for concurrent use.
type Memory struct {
	dir     string
	file    *disk.File
	size    int64 // of the file
	regions [][]byte
	free    []byte // of the last region
	failed  bool
}

// In returns memory in a file without a name in dir, which is made when the first block is
// asked for.
func In(dir string) *Memory { return &Memory{dir: dir} }

// Block returns a block of zeros, at an address that is a multiple of 8, or nil where there is
// no room or the file system has no such files. It is good until Close.
func (m *Memory) Block(size int) []byte {
	size = (size + 7) &^ 7
	if len(m.free) < size && !m.failed {
		m.failed = !m.grow(max(regionSize, (size+regionSize-1)&^(regionSize-1)))
	}
	if len(m.free) < size {
		return nil
	}
	block := m.free[:size:size]
	m.free = m.free[size:]
	return block
}

// grow reports whether there is another region.
func (m *Memory) grow(size int) bool {
	if m.file == nil {
		file, err := disk.OpenFile(m.dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
		if err != nil {
			return false
		}
		m.file = file
		used.Add(1)
	}
	// A page for which the disk had no room later would end the process.
	if unix.Fallocate(int(m.file.Fd()), 0, m.size, int64(size)) != nil {
		return false
	}
	region, err := unix.Mmap(int(m.file.Fd()), m.size, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return false
	}
	m.size += int64(size)
	m.regions, m.free = append(m.regions, region), region
	return true
}

// Room is how many bytes of the blocks should be in the memory of the process: its part of what
// there is for all Memories.
func (m *Memory) Room() int64 { return room / max(1, used.Load()) }

// Release takes all blocks out of the memory of the process. They are in that of the kernel, or
// in the file, and come back as they are used.
func (m *Memory) Release() {
	for _, region := range m.regions {
		_ = unix.Madvise(region, unix.MADV_DONTNEED)
	}
}

// Guard is deferred around the use of blocks, `defer m.Guard(&err)()`: a page that cannot be read
// back from the disk becomes the error, and would otherwise end the process. It is for the
// goroutine that calls it.
func (m *Memory) Guard(err *error) (end func()) {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		what := recover()
		if fault, ok := what.(interface{ Addr() uintptr }); ok && m.has(fault.Addr()) {
			*err = fmt.Errorf("read back what was too large for the memory from a file in %s: %w", m.dir, unix.EIO)
		} else if what != nil {
			panic(what)
		}
	}
}

// has reports whether an address is in a block.
func (m *Memory) has(address uintptr) bool {
	return slices.ContainsFunc(m.regions, func(region []byte) bool {
		begin := uintptr(unsafe.Pointer(unsafe.SliceData(region)))
		return begin <= address && address < begin+uintptr(len(region))
	})
}

// Close frees the blocks.
func (m *Memory) Close() error {
	for _, region := range m.regions {
		_ = unix.Munmap(region)
	}
	m.regions, m.free, m.failed = nil, nil, true
	if m.file == nil {
		return nil
	}
	file := m.file
	m.file = nil
	used.Add(-1)
	return file.Close()
}
