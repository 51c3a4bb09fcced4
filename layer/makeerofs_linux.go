package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"

	"berth/image"
	"berth/internal/disk"
)

// makeEROFS makes the form EROFS of a tar in dir, an empty directory: the tar is written as it
// comes, and after it its index.
func makeEROFS(stream io.Reader, dir string, budget *budget) (_ Info, err error) {
	file, err := disk.OpenFile(filepath.Join(dir, TarFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	spooled := newSpool(stream, file)
	made, info, err := index(spooled, budget)
	if err != nil {
		return Info{}, err
	}
	info.DiffID = image.DigestOfSum([sha256.Size]byte(spooled.sum.Sum(nil)))
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

// spool is a stream that goes to a file, in large pieces, before it is seen.
type spool struct {
	src    io.Reader
	file   io.Writer
	sum    hash.Hash
	buffer []byte
	rest   []byte // of the buffer, not seen yet
	err    error  // after the rest
}

// spoolSize is that of a piece: what one write takes.
const spoolSize = 256 << 10

func newSpool(src io.Reader, file io.Writer) *spool {
	return &spool{src: src, file: file, sum: sha256.New(), buffer: make([]byte, spoolSize)}
}

func (s *spool) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.fill()
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	if n == 0 {
		return 0, s.err
	}
	return n, nil
}

func (s *spool) fill() {
	n := 0
	for n < len(s.buffer) && s.err == nil {
		var m int
		m, s.err = s.src.Read(s.buffer[n:])
		n += m
	}
	s.rest = s.buffer[:n]
	s.sum.Write(s.rest)
	if _, err := s.file.Write(s.rest); err != nil {
		s.rest, s.err = nil, err
	}
}
