package fetch

import (
	"io/fs"
	"os"
	"syscall"
)

// File identifies the content of a file that an image was read from. The time of its last
// change is the one thing that no tool can set back: a file that is written over may keep
// its inode and its size, and get its old modification time.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Mtime  int64  `json:"mtime"` // ns
	Change int64  `json:"ctime"` // ns
	Inode  uint64 `json:"inode"`
}

// Identify returns what tells the file at path, of which info is, from others.
func Identify(path string, info fs.FileInfo) *File {
	stat := info.Sys().(*syscall.Stat_t)
	return &File{Path: path, Size: info.Size(), Mtime: info.ModTime().UnixNano(), Change: changeTime(stat), Inode: stat.Ino}
}

// Unchanged reports whether the file is the one that was read; what came from a
// registry (nil) does not change.
func (f *File) Unchanged() bool {
	if f == nil {
		return true
	}
	now, err := os.Stat(f.Path)
	return err == nil && *Identify(f.Path, now) == *f
}
