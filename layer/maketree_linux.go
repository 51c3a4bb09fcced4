package layer

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"berth/internal/disk"
)

// makeTree unpacks a tar into the form Tree below dir, where the directory fs is.
func makeTree(stream io.Reader, dir string, budget *budget) (_ Info, err error) {
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
