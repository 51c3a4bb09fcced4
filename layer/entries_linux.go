package layer

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"berth/container"
)

const (
	// device numbers are 12 and 20 bits wide inside the kernel
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
	// the id 2^32-1 means "unchanged" to chown(2)
	maxOwner = 1<<32 - 2
)

// entries reads a tar and refuses what no form may have, whatever is made of it.
type entries struct {
	stream *recorder
	tar    *tar.Reader
	budget *budget
}

func newEntries(stream *recorder, budget *budget) entries {
	return entries{stream, tar.NewReader(stream), budget}
}

// each calls do for each entry that is something in the layer, with where it belongs; do may
// read the entry's content. It reads the stream to its end, which the archive's may come before.
func (e *entries) each(do func(*tar.Header, position) error) error {
	for {
		hdr, err := e.tar.Next()
		switch {
		case err == io.EOF:
			_, err := io.Copy(io.Discard, e.stream)
			return err
		case err != nil && e.budget.entries == 0:
			return e.malformed("it is not a tar archive", err)
		case err != nil:
			return e.malformed(fmt.Sprintf("after entry %d", e.budget.entries-1), err)
		}
		if err := e.budget.entry(); err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue // such as git's comment; no tool that unpacks images applies them
		}
		at, err := e.judge(hdr)
		if err == nil && at.kind != metadata { // whose content, like that of any marker, is only in the tar
			err = do(hdr, at)
		}
		if err != nil {
			return fmt.Errorf("entry %d, %s: %w", e.budget.entries-1, quote(hdr.Name), err)
		}
	}
}

// malformed classifies an error of the tar reader: either the stream failed, or it
// did not and its bytes are wrong. Among the latter is an end in mid-entry.
func (e *entries) malformed(what string, err error) error {
	if e.stream.err != nil {
		return e.stream.err
	}
	return fmt.Errorf("%w: %s: %w", container.ErrInvalid, what, err)
}

// judge refuses what an entry must not be by itself, and says where it belongs.
func (e *entries) judge(hdr *tar.Header) (position, error) {
	if !isOwner(hdr.Uid) || !isOwner(hdr.Gid) {
		return position{}, fmt.Errorf("%w: the owner %d:%d is not a user and group id", container.ErrInvalid, hdr.Uid, hdr.Gid)
	}
	at, err := locate(hdr.Name, e.budget.limits.Depth)
	switch {
	case err != nil, at.kind == metadata:
		return at, err
	case at.kind != noMarker && hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeLink:
		return at, fmt.Errorf("%w: a whiteout that is not a file", container.ErrInvalid)
	case at.kind != noMarker:
		return at, nil
	case at.base == "" && hdr.Typeflag != tar.TypeDir:
		return at, fmt.Errorf("%w: the root of the layer is not a directory", container.ErrInvalid)
	}
	switch hdr.Typeflag {
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) > maxName {
			return at, fmt.Errorf("%w: a symbolic link to %s", container.ErrInvalid, quote(hdr.Linkname))
		}
	case tar.TypeChar, tar.TypeBlock:
		return at, judgeDevice(hdr)
	}
	return at, nil
}

func isOwner(id int) bool { return id >= 0 && int64(id) <= maxOwner }

func judgeDevice(hdr *tar.Header) error {
	major, minor := hdr.Devmajor, hdr.Devminor
	switch {
	case major == 0 && minor == 0:
		return fmt.Errorf("%w: the device 0:0 is overlayfs's whiteout; an image may not make one", container.ErrInvalid)
	case major < 0 || major > maxMajor || minor < 0 || minor > maxMinor:
		return fmt.Errorf("%w: the device number %d:%d is out of range", container.ErrInvalid, major, minor)
	}
	return nil
}

// deviceOf returns the type and the number of a device.
func deviceOf(hdr *tar.Header) (kind uint32, rdev uint64) {
	kind = unix.S_IFCHR
	if hdr.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	return kind, unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
}

func unknownType(hdr *tar.Header) error {
	return fmt.Errorf("%w: entries of type %q are not known", container.ErrInvalid, hdr.Typeflag)
}

// noTarget is for a hard link to what is not there.
func noTarget(hdr *tar.Header) error {
	return fmt.Errorf("%w: hard link to %s, which this layer does not have", container.ErrInvalid, quote(hdr.Linkname))
}

// inOrder returns the directories as a record has them.
func inOrder(implied map[string]bool) (names [][]byte) {
	for _, name := range slices.Sorted(maps.Keys(implied)) {
		names = append(names, []byte(name))
	}
	return names
}
