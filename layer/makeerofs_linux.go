package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"

	"berth/image"
	"berth/internal/disk"
	"berth/internal/readahead"
	"berth/internal/spill"
)

// makeEROFS makes the form EROFS of a tar in dir, an empty directory: the tar is written as it
// comes, and after it its index.
func makeEROFS(stream *stream, dir string) (_ Info, err error) {
	file, err := disk.OpenFile(filepath.Join(dir, TarFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	memory := spill.In(dir)
	defer func() { err = errors.Join(err, memory.Close()) }()
	defer memory.Guard(&err)()
	made, info, err := index(&spool{stream: stream, file: file}, file, memory, stream.budget)
	if err != nil {
		return Info{}, err
	}
	info.DiffID = stream.digest()
	made.SetUUID(uuidOf(info.DiffID))
	out, err := disk.OpenFile(filepath.Join(dir, IndexFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	written := sha256.New()
	if err := made.Write(io.MultiWriter(out, written), info.Size); err != nil {
		return Info{}, err
	}
	info.Index = image.DigestOfSum([sha256.Size]byte(written.Sum(nil)))
	return info, nil
}

// uuidOf is the identity of the file system of a layer: the beginning of its digest.
func uuidOf(id image.Digest) (uuid [16]byte) {
	_, _ = hex.Decode(uuid[:], []byte(id.Hex()[:2*len(uuid)])) // a Digest is hexadecimal
	return uuid
}

// spool is a stream that goes to a file before it is seen.
type spool struct {
	stream  readahead.Pieces
	file    *disk.File
	written int64
	begun   int64 // what the kernel was told to write to the disk
}

// writeback is how much comes together before the kernel is told to write it. By itself it
// would not begin before there is too much of it for the memory, or for half a minute: most of
// a pull would be waiting for its sync.
const writeback = 8 << 20

func (s *spool) Next() ([]byte, error) {
	piece, err := s.stream.Next()
	if err != nil {
		return nil, err
	}
	if _, err := s.file.Write(piece); err != nil {
		return nil, err
	}
	if s.written += int64(len(piece)); s.written-s.begun >= writeback {
		// Only advice: the sync of the pull writes what is not written, and tells what went wrong.
		_ = disk.StartWriteback(s.file, s.begun, s.written-s.begun)
		s.begun = s.written
	}
	return piece, nil
}
