package appc

import (
	"archive/tar"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"berth/container"
	"berth/image"
	"berth/image/appc"
	"berth/layer"
)

// The two entries of an image.
const (
	manifestEntry = "manifest"
	rootfsEntry   = "rootfs"
)

// xattrRecord begins the pax records that carry extended attributes.
const xattrRecord = "SCHILY.xattr."

// contents is what reading an image once tells of it.
type contents struct {
	id        appc.ID
	manifest  []byte
	diffID    image.Digest // of its layer
	layerSize int64        // uncompressed
}

// read reads the uncompressed tar of an image to its end and writes its layer to out, of
// which kept keeps the entries.
//
// Errors of in and of out are returned as they are. ErrInvalid: it is no image.
func read(in io.Reader, kept whitelist, out io.Writer) (*contents, error) {
	stream := &stream{r: in, sum: sha512.New()}
	sum, size := sha256.New(), new(counter)
	r := &reader{stream: stream, in: tar.NewReader(stream), out: tar.NewWriter(io.MultiWriter(sum, size, out)), kept: kept}
	if err := r.entries(); err != nil {
		return nil, err
	}
	if err := r.out.Close(); err != nil {
		return nil, err
	}
	// What follows the end of the archive is part of what has the image id.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return nil, err
	}
	return &contents{
		id: appc.IDOfSum([sha512.Size]byte(stream.sum.Sum(nil))), manifest: r.manifest,
		diffID: image.DigestOfSum([sha256.Size]byte(sum.Sum(nil))), layerSize: int64(*size),
	}, nil
}

// counter counts what is written.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// stream is the bytes of an image's tar on their way to the tar reader. It keeps their
// error, which tells a stream that fails from one that has the wrong bytes.
type stream struct {
	r   io.Reader
	sum hash.Hash
	err error
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// reader turns an image's tar into its manifest and its layer.
type reader struct {
	stream   *stream
	in       *tar.Reader
	out      *tar.Writer
	kept     whitelist
	manifest []byte
	rootfs   bool // an entry of it has come
	root     bool // that of the directory itself
}

func (r *reader) entries() error {
	for n := 0; ; n++ {
		hdr, err := r.in.Next()
		switch {
		case err == io.EOF:
			return r.whole()
		case err != nil && r.stream.err != nil:
			return r.stream.err
		case err != nil && n == 0:
			return fmt.Errorf("%w: it is not a tar archive: %w", container.ErrInvalid, err)
		case err != nil:
			return fmt.Errorf("%w: after entry %d: %w", container.ErrInvalid, n-1, err)
		}
		if err := r.entry(hdr); err != nil {
			return fmt.Errorf("entry %d, %.100q: %w", n, hdr.Name, err)
		}
	}
}

// whole refuses what lacks one of the two entries. A rootfs without an entry of its own is
// there by the names that go through it.
func (r *reader) whole() error {
	switch {
	case r.manifest == nil:
		return fmt.Errorf("%w: it has no file %q: it is not an Appc image", container.ErrInvalid, manifestEntry)
	case !r.rootfs:
		return fmt.Errorf("%w: it has no directory %q: it is not an Appc image", container.ErrInvalid, rootfsEntry)
	}
	return nil
}

func (r *reader) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // such as git's comment; no tool that unpacks images applies them
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	switch top, below, _ := strings.Cut(name, "/"); {
	case name == ".":
		return nil // the directory in which tar was called
	case name == manifestEntry:
		return r.readManifest(hdr)
	case top == rootfsEntry:
		r.rootfs = true
		return r.place(hdr, below)
	}
	return fmt.Errorf("%w: an image has %q and %q, and nothing else", container.ErrInvalid, manifestEntry, rootfsEntry)
}

// cleanName brings a name into its one form. What tools resolve differently is refused.
func cleanName(name string) (string, error) {
	switch {
	case strings.HasPrefix(name, "/"):
		return "", fmt.Errorf("%w: the name is absolute", container.ErrInvalid)
	case strings.ContainsRune(name, 0):
		return "", fmt.Errorf("%w: the name contains a NUL byte", container.ErrInvalid)
	}
	for component := range strings.SplitSeq(name, "/") {
		if component == ".." {
			return "", fmt.Errorf(`%w: the name contains ".."`, container.ErrInvalid)
		}
	}
	return path.Clean(name), nil
}

func (r *reader) readManifest(hdr *tar.Header) error {
	switch {
	case r.manifest != nil:
		return fmt.Errorf("%w: it is there twice", container.ErrInvalid)
	case hdr.Typeflag != tar.TypeReg || layer.IsSparse(hdr):
		return fmt.Errorf("%w: it is not a plain file", container.ErrInvalid)
	case hdr.Size > appc.MaxManifestSize:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", container.ErrInvalid, hdr.Size, appc.MaxManifestSize)
	}
	r.manifest = make([]byte, hdr.Size)
	_, err := io.ReadFull(r.in, r.manifest)
	return r.classify(err)
}

// classify tells a stream that fails from one that ends too early.
func (r *reader) classify(err error) error {
	switch {
	case err == nil:
		return nil
	case r.stream.err != nil:
		return r.stream.err
	}
	return fmt.Errorf("%w: its content: %w", container.ErrInvalid, err)
}

// place writes an entry of the rootfs to the layer, under its name there.
func (r *reader) place(hdr *tar.Header, name string) error {
	isDir := hdr.Typeflag == tar.TypeDir
	if name == "" {
		if !isDir || r.root {
			return fmt.Errorf("%w: it is not one directory", container.ErrInvalid)
		}
		r.root = true
	}
	for component := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(component, ".wh.") {
			return fmt.Errorf("%w: a name that begins with .wh. hides files in layers, and Appc images hide nothing: build the image without it", container.ErrNotSupported)
		}
	}
	if !r.kept.keeps(name, isDir || hdr.Typeflag == tar.TypeSymlink) {
		return nil
	}
	header, err := r.header(hdr, name)
	if err != nil {
		return err
	}
	if err := r.out.WriteHeader(header); err != nil {
		if errors.Is(err, tar.ErrHeader) {
			return fmt.Errorf("%w: %w", container.ErrInvalid, err)
		}
		return err
	}
	return r.content(header.Size)
}

// header is what a layer has of an entry: neither the names of its owners nor the times of
// which nobody relies on more than one.
func (r *reader) header(hdr *tar.Header, name string) (*tar.Header, error) {
	h := &tar.Header{
		Typeflag: hdr.Typeflag, Name: name, Mode: hdr.Mode & 0o7777, Uid: hdr.Uid, Gid: hdr.Gid,
		ModTime: hdr.ModTime, Format: tar.FormatPAX,
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		h.Name += "/"
		if name == "" {
			h.Name = "./"
		}
	case tar.TypeReg, tar.TypeCont:
		h.Typeflag, h.Size = tar.TypeReg, hdr.Size
	case tar.TypeSymlink:
		h.Linkname = hdr.Linkname
	case tar.TypeLink:
		target, err := r.linkTarget(hdr.Linkname)
		if err != nil {
			return nil, err
		}
		h.Linkname = target
	case tar.TypeChar, tar.TypeBlock:
		h.Devmajor, h.Devminor = hdr.Devmajor, hdr.Devminor
	case tar.TypeFifo:
	default:
		return nil, fmt.Errorf("%w: entries of type %q are not known", container.ErrInvalid, hdr.Typeflag)
	}
	if layer.IsSparse(hdr) {
		return nil, fmt.Errorf("%w: it is stored as a sparse file: build the image without --sparse", container.ErrNotSupported)
	}
	for key, value := range hdr.PAXRecords {
		if strings.HasPrefix(key, xattrRecord) {
			if h.PAXRecords == nil {
				h.PAXRecords = make(map[string]string)
			}
			h.PAXRecords[key] = value
		}
	}
	return h, nil
}

// linkTarget is the name in the layer of what a hard link links to.
func (r *reader) linkTarget(link string) (string, error) {
	clean, err := cleanName(link)
	if err != nil {
		return "", fmt.Errorf("hard link to %.100q: %w", link, err)
	}
	target, inside := strings.CutPrefix(clean, rootfsEntry+"/")
	switch {
	case !inside:
		return "", fmt.Errorf("%w: a hard link to %.100q, which is not in %q", container.ErrInvalid, link, rootfsEntry)
	case !r.kept.keeps(target, false):
		return "", fmt.Errorf("%w: the pathWhitelist keeps it, but not /%.100s, to which it is a hard link", container.ErrNotSupported, target)
	}
	return target, nil
}

// content copies the content of an entry.
func (r *reader) content(size int64) error {
	if size == 0 {
		return nil
	}
	out := &failing{w: r.out}
	n, err := io.Copy(out, r.in)
	switch {
	case out.err != nil:
		return out.err
	case err == nil && n != size:
		err = io.ErrUnexpectedEOF
	}
	return r.classify(err)
}

// failing keeps the error of its writer apart from those of what is written.
type failing struct {
	w   io.Writer
	err error
}

func (f *failing) Write(p []byte) (n int, err error) {
	n, f.err = f.w.Write(p)
	return n, f.err
}

// whitelist is what the pathWhitelists of an image, and of the images that depend on it,
// leave. nil leaves all.
type whitelist []pathSet

// pathSet is one pathWhitelist: true are the paths in it, false the directories above.
type pathSet map[string]bool

func newPathSet(paths []string) pathSet {
	set := pathSet{"": true}
	for _, p := range paths {
		p = strings.TrimPrefix(p, "/")
		set[p] = true
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if _, known := set[dir]; known {
				break
			}
			set[dir] = false
		}
	}
	return set
}

// keeps reports whether all whitelists have a path. What leads to such a path stays, too,
// if it can lead somewhere.
func (w whitelist) keeps(name string, leads bool) bool {
	for _, set := range w {
		if listed, known := set[name]; !listed && !(known && leads) {
			return false
		}
	}
	return true
}

// with adds the whitelist of one more image.
func (w whitelist) with(paths []string) whitelist {
	if len(paths) == 0 {
		return w
	}
	return append(append(whitelist{}, w...), newPathSet(paths))
}
