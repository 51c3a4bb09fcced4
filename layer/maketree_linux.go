package layer

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"

	"berth/image"
	"berth/internal/disk"
)

// make makes the form of a tar in dir, an empty directory. Of the record it returns, the
// version is missing.
func (f Form) make(stream io.Reader, dir string, budget *budget) (Info, error) {
	if f == EROFS {
		return makeEROFS(stream, dir, budget)
	}
	sum := sha256.New()
	info, err := makeTree(io.TeeReader(stream, sum), dir, budget)
	info.DiffID = image.DigestOfSum([sha256.Size]byte(sum.Sum(nil)))
	return info, err
}

// makeTree unpacks a tar into the form Tree in dir.
func makeTree(stream io.Reader, dir string, budget *budget) (_ Info, err error) {
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
	return unpack(stream, int(root.Fd()), split, budget)
}
