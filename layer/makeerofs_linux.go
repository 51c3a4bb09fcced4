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
)

// makeEROFS makes the form EROFS of a tar in dir, an empty directory: the tar is written as it
// comes, and after it its index.
func makeEROFS(stream *stream, dir string) (_ Info, err error) {
	file, err := disk.OpenFile(filepath.Join(dir, TarFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	made, info, err := index(spool{stream, file}, stream.budget)
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
	pieces
	file io.Writer
}

func (s spool) Next() ([]byte, error) {
	piece, err := s.pieces.Next()
	if err != nil {
		return nil, err
	}
	if _, err := s.file.Write(piece); err != nil {
		return nil, err
	}
	return piece, nil
}
