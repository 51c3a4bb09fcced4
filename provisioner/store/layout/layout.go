// Package layout reads OCI image layouts (image-spec, "Image Layout"), directories and tar
// archives of this form, from whoever made them, and writes archives (write.go):
//
//	oci-layout              the version of the layout
//	index.json              the images, each with its name as an annotation
//	blobs/<alg>/<digest>    manifests, indexes, configurations, layers
//
// No byte is believed: each blob has the size that its descriptor says, and proves its
// digest at its end. Of a directory only regular files are read, and no symbolic link
// below it is followed.
package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"berth/container"
	"berth/image"
	"berth/provisioner/store/fetch"
)

// Layout is one that is open. It implements fetch.Documents.
type Layout struct {
	files files
}

// files are those of a directory or of an archive.
type files interface {
	// open opens a regular file. ErrNotFound, ErrInvalid.
	open(name string) (*content, error)
	Close() error
}

// content is an open file.
type content struct {
	io.ReadCloser
	size int64
	// file tells the content from what the file has later; nil in an archive, because
	// then it is the archive that changes.
	file *fetch.File
}

// Close ends the use of the layout.
func (l *Layout) Close() error { return l.files.Close() }

// InArchive reads the layout in an archive that has been indexed. The archive is the
// caller's.
func InArchive(members *fetch.Members) *Layout { return &Layout{archiveFiles{members}} }

type archiveFiles struct{ *fetch.Members }

func (a archiveFiles) open(name string) (*content, error) {
	at, err := a.Find(name)
	if err != nil {
		return nil, err
	}
	return &content{ReadCloser: io.NopCloser(a.Open(at)), size: at.Size}, nil
}

func (archiveFiles) Close() error { return nil }

// Index reads what images the layout has. file tells them from what it has later; in an
// archive it is nil, because then it is the archive that changes. The class of the error
// is ErrNotFound if it is no layout, else see image.CheckLayout and image.ParseManifest.
func (l *Layout) Index() (index *image.Index, file *fetch.File, err error) {
	mark, _, err := l.read(image.LayoutFile)
	if errors.Is(err, container.ErrNotFound) {
		return nil, nil, fmt.Errorf("%w: it is no OCI image layout", err)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := image.CheckLayout(mark); err != nil {
		return nil, nil, err
	}
	body, file, err := l.read(image.LayoutIndexFile)
	if err != nil {
		return nil, nil, err
	}
	document, err := image.ParseManifest(image.MediaTypeOCIIndex, body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", image.LayoutIndexFile, err)
	}
	return document.(*image.Index), file, nil // as its media type says
}

// read returns a small file.
func (l *Layout) read(name string) (_ []byte, file *fetch.File, err error) {
	c, err := l.files.open(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if c.size > image.MaxManifestSize {
		return nil, nil, fmt.Errorf("%s: %w: it has %d bytes, at most %d are allowed", name, container.ErrInvalid, c.size, image.MaxManifestSize)
	}
	body, err := io.ReadAll(io.LimitReader(c, c.size))
	return body, c.file, err
}

// Document implements fetch.Documents.
func (l *Layout) Document(_ context.Context, d image.Descriptor) (fetch.Document, error) {
	body, err := l.readBlob(d, image.MaxManifestSize)
	return fetch.Document{MediaType: d.MediaType, Body: body}, err
}

// Config implements fetch.Documents.
func (l *Layout) Config(_ context.Context, d image.Descriptor) ([]byte, error) {
	return l.readBlob(d, image.MaxConfigSize)
}

func (l *Layout) readBlob(d image.Descriptor, most int64) (_ []byte, err error) {
	if d.Size > most {
		return nil, fmt.Errorf("blob %s: %w: it has %d bytes, at most %d are allowed", d.Digest, container.ErrInvalid, d.Size, most)
	}
	content, err := l.Blob(d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	return io.ReadAll(content)
}

// Blob opens what a descriptor names. Its end is not reached unless the bytes have the
// descriptor's size and digest: else there is an error of class ErrInvalid. ErrNotFound:
// the layout does not have it.
func (l *Layout) Blob(d image.Descriptor) (io.ReadCloser, error) {
	c, err := l.files.open(image.BlobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	if c.size != d.Size {
		return nil, errors.Join(fmt.Errorf("blob %s: %w: it has %d bytes, its descriptor says %d", d.Digest, container.ErrInvalid, c.size, d.Size), c.Close())
	}
	return &verified{ReadCloser: c, want: d, sum: sha256.New()}, nil
}

// verified proves what it has read at its end.
type verified struct {
	io.ReadCloser
	want image.Descriptor
	sum  hash.Hash
	n    int64
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.sum.Write(p[:n])
	if v.n += int64(n); v.n > v.want.Size { // a file that grows
		return n, fmt.Errorf("blob %s: %w: it has more than %d bytes", v.want.Digest, container.ErrInvalid, v.want.Size)
	}
	if err != io.EOF {
		return n, err
	}
	if got := image.DigestOfSum([sha256.Size]byte(v.sum.Sum(nil))); got != v.want.Digest {
		return n, fmt.Errorf("blob %s: %w: its bytes have the digest %s", v.want.Digest, container.ErrInvalid, got)
	}
	return n, io.EOF
}
