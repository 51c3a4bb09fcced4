package docker

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"berth/container"
	"berth/image"
)

const (
	maxMembers = 100_000
	maxLinks   = 8
)

// members is an index of a tar file: where the content of each member begins.
// Nothing but names and offsets is in memory.
type members struct {
	file   *os.File
	byName map[string]member
}

type member struct {
	offset, size int64
	link         string // of a symbolic or hard link: the member that it stands for
}

// indexMembers reads the headers of a tar file and skips the contents.
func indexMembers(ctx context.Context, file *os.File) (*members, error) {
	m := &members{file: file, byName: make(map[string]member)}
	archive := tar.NewReader(file)
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		hdr, err := archive.Next()
		switch {
		case err == io.EOF && len(m.byName) > 0:
			return m, nil
		case err == io.EOF, errors.Is(err, tar.ErrHeader):
			return nil, fmt.Errorf("%w: it is not an uncompressed tar archive", container.ErrInvalid)
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("%w: the file is cut off: %w", container.ErrInvalid, err)
		case err != nil:
			return nil, err
		case len(m.byName) == maxMembers:
			return nil, fmt.Errorf("%w: it has more than %d members", container.ErrInvalid, maxMembers)
		}
		// archive/tar reads no further than the header, so the content begins here.
		offset, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := cleanMember(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			m.byName[name] = member{offset: offset, size: hdr.Size}
		case tar.TypeSymlink: // docker save links layers that it has written already
			m.byName[name] = member{link: path.Join(path.Dir(name), hdr.Linkname)}
		case tar.TypeLink:
			m.byName[name] = member{link: cleanMember(hdr.Linkname)}
		}
	}
}

func (m *members) has(name string) bool {
	_, ok := m.byName[name]
	return ok
}

// find returns the regular member under a name, links inside the archive followed.
func (m *members) find(name string) (member, error) {
	at := cleanMember(name)
	for range maxLinks {
		found, ok := m.byName[at]
		if !ok {
			return member{}, fmt.Errorf("archive member %q: %w", name, container.ErrNotFound)
		}
		if found.link == "" {
			return found, nil
		}
		at = found.link
	}
	return member{}, fmt.Errorf("archive member %q: %w: a chain of links", name, container.ErrInvalid)
}

func (m *members) open(at member) io.Reader { return io.NewSectionReader(m.file, at.offset, at.size) }

// read returns a small member.
func (m *members) read(name string) ([]byte, error) {
	at, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if at.size > image.MaxConfigSize {
		return nil, fmt.Errorf("archive member %q: %w: it has %d bytes, at most %d are allowed", name, container.ErrInvalid, at.size, image.MaxConfigSize)
	}
	return io.ReadAll(m.open(at))
}

func (m *members) decode(name string, into any) error {
	data, err := m.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("archive member %q: %w: %w", name, container.ErrInvalid, err)
	}
	return nil
}
