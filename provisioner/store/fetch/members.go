package fetch

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"berth/container"
	"berth/image"
	"berth/layer"
)

const (
	maxMembers = 100_000
	// maxNames bounds the names of the members together: a pax header alone has room
	// for a megabyte.
	maxNames = 32 << 20
	maxLinks = 8
)

// Members is an index of a tar file: where the content of each member begins.
// Nothing but names and offsets is in memory.
type Members struct {
	file   io.ReaderAt
	byName map[string]Member
	names  int // bytes
}

// Member is where the content of a member lies.
type Member struct {
	Size   int64
	offset int64
	link   string // of a symbolic or hard link: the member that it stands for
}

// IndexMembers reads the headers of a tar file of size bytes and skips the contents. The
// error is of class ErrInvalid for what is no whole tar, and ErrNotSupported for one that
// cannot be read in place.
func IndexMembers(ctx context.Context, file io.ReaderAt, size int64) (*Members, error) {
	m := &Members{file: file, byName: make(map[string]Member)}
	section := io.NewSectionReader(file, 0, size)
	archive := tar.NewReader(section)
	var end int64 // of the last member
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		hdr, err := archive.Next()
		switch {
		case err == io.EOF && 0 < end && end < size:
			return m, nil
		case err == io.EOF && end > 0, errors.Is(err, io.ErrUnexpectedEOF):
			// Blocks of zeros end an archive: one that ends with a member was cut between two.
			return nil, errCut(size)
		case end == 0 && (err == io.EOF || errors.Is(err, tar.ErrHeader)):
			return nil, fmt.Errorf("%w: it is not a tar archive", container.ErrInvalid)
		case errors.Is(err, tar.ErrHeader):
			return nil, fmt.Errorf("%w: the file is damaged: no member begins after byte %d", container.ErrInvalid, end)
		case err != nil:
			return nil, err
		}
		// archive/tar reads no further than the header, so the content begins here.
		offset, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := m.add(hdr, offset); err != nil {
			return nil, err
		}
		if end = endOf(hdr, offset); end > size {
			return nil, errCut(size)
		}
	}
}

func errCut(size int64) error {
	return fmt.Errorf("%w: the file is cut off: it ends after %d bytes without the mark of its end", container.ErrInvalid, size)
}

func (m *Members) add(hdr *tar.Header, offset int64) error {
	name := cleanMember(hdr.Name)
	switch {
	case layer.IsSparse(hdr):
		// Its content is not what lies in the archive.
		return fmt.Errorf("member %.100q: %w: it is stored as a sparse file: pack the archive without --sparse", name, container.ErrNotSupported)
	case hdr.Typeflag == tar.TypeReg:
		m.byName[name] = Member{offset: offset, Size: hdr.Size}
	case hdr.Typeflag == tar.TypeSymlink: // docker save links layers that it has written already
		m.byName[name] = Member{link: path.Join(path.Dir(name), hdr.Linkname)}
	case hdr.Typeflag == tar.TypeLink:
		m.byName[name] = Member{link: cleanMember(hdr.Linkname)}
	}
	m.names += len(hdr.Name) + len(hdr.Linkname)
	if len(m.byName) > maxMembers || m.names > maxNames {
		return fmt.Errorf("%w: it has more than %d members, or names of more than %d bytes", container.ErrInvalid, maxMembers, maxNames)
	}
	return nil
}

// endOf returns where a member ends whose content begins at offset.
func endOf(hdr *tar.Header, offset int64) int64 {
	const block = 512
	end := offset
	switch hdr.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		// No content, whatever the header says of a size.
	default:
		end += min(hdr.Size, math.MaxInt64/2) // no sum can overflow
	}
	return (end + block - 1) / block * block
}

// Has reports whether there is a member of the name.
func (m *Members) Has(name string) bool {
	_, ok := m.byName[name]
	return ok
}

// Find returns the regular member under a name, links inside the archive
// followed. ErrNotFound, ErrInvalid.
func (m *Members) Find(name string) (Member, error) {
	at := cleanMember(name)
	for range maxLinks + 1 {
		found, ok := m.byName[at]
		switch {
		case !ok && at == cleanMember(name):
			return Member{}, fmt.Errorf("archive member %.100q: %w", name, container.ErrNotFound)
		case !ok:
			return Member{}, fmt.Errorf("archive member %.100q: %w: it is a link to %.100q, which is none", name, container.ErrNotFound, at)
		case found.link == "":
			return found, nil
		}
		at = found.link
	}
	return Member{}, fmt.Errorf("archive member %.100q: %w: more than %d links lead on from it", name, container.ErrInvalid, maxLinks)
}

// Open returns the content of a member.
func (m *Members) Open(at Member) io.Reader { return io.NewSectionReader(m.file, at.offset, at.Size) }

// Read returns a small member, at most image.MaxConfigSize.
func (m *Members) Read(name string) ([]byte, error) {
	at, err := m.Find(name)
	if err != nil {
		return nil, err
	}
	if at.Size > image.MaxConfigSize {
		return nil, fmt.Errorf("archive member %.100q: %w: it has %d bytes, at most %d are allowed", name, container.ErrInvalid, at.Size, image.MaxConfigSize)
	}
	return io.ReadAll(m.Open(at))
}

// Decode reads a small member of JSON.
func (m *Members) Decode(name string, into any) error {
	data, err := m.Read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("archive member %.100q: %w: %w", name, container.ErrInvalid, err)
	}
	return nil
}

// cleanMember is the form in which members are looked up.
func cleanMember(name string) string { return strings.TrimPrefix(strings.TrimSuffix(name, "/"), "./") }
