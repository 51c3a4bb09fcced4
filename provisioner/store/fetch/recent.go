package fetch

import (
	"sync"
	"time"

	"berth/internal/disk"
)

// recent keeps records that Get has read, so that not every launch reads and verifies its
// image's again. A record is what it was as long as its file is.
type recent struct {
	mu  sync.Mutex
	all map[string]recentRecord // by path
}

type recentRecord struct {
	file File
	rec  *record
}

// What is kept is bounded: 16 MB.
const (
	maxRecent     = 256
	maxRecentSize = 64 << 10
)

// settled is the age from which on another change of a file shows in its times: the
// kernel's clock for them has ticks.
const settled = time.Second

// get returns the record if it is kept, else what to give put after reading it.
func (r *recent) get(path string) (*record, *File) {
	info, err := disk.Lstat(path)
	if err != nil {
		return nil, nil // whoever reads the file is told
	}
	now := Identify(path, info)
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.all[path]; ok && e.file == *now {
		return e.rec, nil
	}
	delete(r.all, path)
	return nil, now
}

// put keeps a record. Nobody changes it from then on.
func (r *recent) put(file *File, rec *record) {
	if file == nil || file.Size > maxRecentSize || time.Since(time.Unix(0, file.Change)) < settled {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil || len(r.all) >= maxRecent {
		r.all = make(map[string]recentRecord)
	}
	r.all[file.Path] = recentRecord{*file, rec}
}
