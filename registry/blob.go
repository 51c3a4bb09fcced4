package registry

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"berth/container"
	"berth/image"
)

// Blob opens the blob that d announces, in name's repository; tag and digest of
// name do not matter, and neither do d's URLs: they are never contacted.
//
// The reader hashes as it reads. io.EOF from it proves that exactly d.Size bytes
// were read and that d.Digest is their digest; until then they are a stranger's.
// So a caller has to read up to io.EOF, also past the end of what it decodes. Every
// other end is an error: ErrInvalid if the bytes are others or more, ErrUnavailable if
// they break off or stall. At most d.Size+1 bytes are taken from the network.
//
// ctx governs reading too. A httptrace.ClientTrace in it sees every request that Blob
// makes, those for tokens and along redirects first, the one for the blob last. The
// reader is to be closed; it is not safe for concurrent use. The errors of Blob itself are
// those of Manifest.
func (c *Client) Blob(ctx context.Context, name image.Name, d image.Descriptor) (io.ReadCloser, error) {
	b, err := c.openBlob(ctx, name, d)
	if err != nil {
		return nil, fmt.Errorf("fetch blob %s of %s: %w", d.Digest, name, err)
	}
	return b, nil
}

func (c *Client) openBlob(ctx context.Context, name image.Name, d image.Descriptor) (*blob, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if _, err := image.ParseDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	if d.Size < 0 {
		return nil, fmt.Errorf("%w: a size of %d bytes", container.ErrInvalid, d.Size)
	}
	reply, err := c.get(ctx, name, resource{
		path:    []string{"blobs", d.Digest.String()},
		missing: "the image is incomplete in the registry, push it again",
	})
	if err != nil {
		return nil, err
	}
	b := &blob{
		body: reply.Body,
		want: d,
		left: d.Size,
		hash: sha256.New(),
		what: fmt.Sprintf("fetch blob %s of %s: %s", d.Digest, name, reply.place()),
	}
	if length := reply.ContentLength; length >= 0 && length != d.Size {
		reply.Body.Close()
		return nil, fmt.Errorf("%s: %w: it has %d bytes, the manifest says %d", reply.place(), container.ErrInvalid, length, d.Size)
	}
	return b, nil
}

// blob is the reader of Blob.
type blob struct {
	body io.ReadCloser
	want image.Descriptor
	what string // begins every error
	hash hash.Hash
	left int64
	err  error // the end, once it is reached
}

func (b *blob) Read(p []byte) (int, error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	case b.left == 0:
		b.err = b.finish()
		return 0, b.err
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.hash.Write(p[:n])
	b.left -= int64(n)
	// With nothing left the next Read decides, whatever err is.
	if err != nil && b.left > 0 {
		b.err = b.broken(err)
	}
	return n, b.err
}

// finish looks for a byte too many, then at the digest.
func (b *blob) finish() error {
	var extra [1]byte
	switch _, err := io.ReadFull(b.body, extra[:]); {
	case err == nil:
		return fmt.Errorf("%s: %w: it goes on after its %d bytes", b.what, container.ErrInvalid, b.want.Size)
	case err != io.EOF:
		return b.broken(err)
	}
	if got := image.DigestOfSum([sha256.Size]byte(b.hash.Sum(nil))); got != b.want.Digest {
		return fmt.Errorf("%s: %w: expected bytes with the digest %s, got %d bytes with %s",
			b.what, container.ErrInvalid, b.want.Digest, b.want.Size, got)
	}
	return io.EOF
}

func (b *blob) broken(err error) error {
	if err == io.EOF {
		err = fmt.Errorf("%w: the answer ended early", container.ErrUnavailable)
	}
	return fmt.Errorf("%s: %w, after %d of %d bytes", b.what, err, b.want.Size-b.left, b.want.Size)
}

// Close gives the connection back. It may be called at any time.
func (b *blob) Close() error { return b.body.Close() }
