package layer

import (
	"errors"
	"os"
	"path/filepath"

	"berth/internal/disk"
	"berth/internal/readahead"
)

// make makes the form of a tar in dir, an empty directory. It reads the stream to its end. Of
// the record it returns, the version is missing.
func (f Form) make(stream *stream, dir string) (Info, error) {
	if f == EROFS {
		return makeEROFS(stream, dir)
	}
	return makeTree(stream, dir)
}

// makeTree unpacks a tar into the form Tree in dir.
func makeTree(stream *stream, dir string) (_ Info, err error) {
	if err := disk.Mkdir(filepath.Join(dir, contentDir), 0o755); err != nil {
		return Info{}, err
	}
	root, err := disk.Open(filepath.Join(dir, contentDir))
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := root.Chmod(0o755); err != nil {
		return Info{}, err
	}
	file, err := disk.OpenFile(filepath.Join(dir, splitFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	split, err := newSplitWriter(file)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, split.Close()) }()
	info, err := unpack(readahead.Join(stream), int(root.Fd()), split, stream.budget)
	if err != nil {
		return Info{}, err
	}
	info.DiffID = stream.digest()
	return info, nil
}
