package cgroup

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// kept are files of a group that stay open, because they are read all the time: opening and
// closing one costs several times what reading it does. The kernel has a page for each, so
// none stays open for long after it was read last.
type kept struct {
	mu    sync.RWMutex
	files map[string]int // descriptors by path
	idle  *time.Timer
	ended bool // the group is removed
}

// keptFor is how long files stay open that nobody reads: longer than from one
// reading to the next of who wants to know it all the time.
const keptFor = 2 * time.Second

// keptFiles counts those of all groups.
var keptFiles atomic.Int64

// mostKept is how many there may be: half of what this process may open. Those beyond it are
// opened each time that they are read.
var mostKept = sync.OnceValue(func() int64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int64(min(limit.Cur, 1<<20) / 2)
})

// Kept returns the directory for who reads the same files of it again and again: they stay
// open for some seconds, unless there are too many or the group is removed. What is read is
// the same, but for lists of processes of v1: who has one open gets that of a second ago.
func (d Dir) Kept() Dir {
	d.keeps = d.kept != nil
	return d
}

// read appends the content of the file at a path to a buffer; false: whoever opens it has to.
func (k *kept) read(path string, buffer []byte) ([]byte, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	fd, ok := k.files[path]
	if !ok {
		return nil, false
	}
	k.idle.Reset(keptFor)
	text, err := readFrom(fd, buffer)
	return text, err == nil
}

// open opens the file at a path for the reads to come, if it is not yet, and if that is
// possible.
func (k *kept) open(path string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.files[path]; ok {
		return true
	}
	if k.ended || keptFiles.Load() >= mostKept() {
		return false
	}
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY)
	if err != nil {
		return false
	}
	if k.files == nil {
		k.files = make(map[string]int)
		k.idle = time.AfterFunc(keptFor, k.close)
	}
	k.files[path] = fd
	keptFiles.Add(1)
	return true
}

// close closes all.
func (k *kept) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closeAll()
}

// end closes all for good.
func (k *kept) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.closeAll()
}

func (k *kept) closeAll() {
	if k.files == nil {
		return
	}
	k.idle.Stop()
	for _, fd := range k.files {
		unix.Close(fd)
	}
	keptFiles.Add(-int64(len(k.files)))
	k.files, k.idle = nil, nil
}
