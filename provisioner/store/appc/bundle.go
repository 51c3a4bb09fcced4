package appc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
)

// maxBundle bounds the file of an image whose size nobody has stated.
const maxBundle = 64 << 30

// bundle is the file of an image, downloaded.
type bundle struct {
	file   *disk.File
	at     location
	size   int64
	digest image.Digest // of the file
	signer string       // the fingerprint of its key; "" when nobody asked for one
}

// fetch downloads an image; size is what it is said to have, 0 when nothing is said. The
// caller closes the bundle; its file goes with the directory that tmp returns.
//
// With a key ring, nil proves that one of its keys has signed the file.
func (kd *kind) fetch(ctx context.Context, at location, size int64, tmp func() (string, error)) (*bundle, error) {
	b, err := kd.download(ctx, at, size, tmp)
	if err != nil {
		return nil, err
	}
	if kd.keyring == nil {
		return b, nil
	}
	signature, err := kd.signature(ctx, at)
	if err == nil {
		b.signer, err = kd.keyring.verify(b.content(), signature)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", at.Image, err), b.close())
	}
	return b, nil
}

func (kd *kind) download(ctx context.Context, at location, size int64, tmp func() (string, error)) (_ *bundle, err error) {
	content, has, err := kd.open(ctx, at.Image)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	most := int64(maxBundle)
	if size > 0 {
		most = size
	}
	if size > 0 && has >= 0 && has != size || has > most {
		return nil, wrongSize(at.Image, has, most, size > 0)
	}
	dir, err := tmp()
	if err != nil {
		return nil, err
	}
	file, err := disk.CreateTemp(dir, "image.*")
	if err != nil {
		return nil, err
	}
	b := &bundle{file: file, at: at}
	sum := sha256.New()
	b.size, err = io.Copy(io.MultiWriter(file, sum), io.LimitReader(&cancelled{ctx, content}, most+1))
	kd.bytesFetched.Add(b.size)
	switch {
	case err != nil:
		err = fmt.Errorf("fetch %s: %w", at.Image, err)
	case b.size > most || size > 0 && b.size != size || has >= 0 && b.size != has:
		err = wrongSize(at.Image, b.size, most, size > 0)
	}
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.digest = image.DigestOfSum([sha256.Size]byte(sum.Sum(nil)))
	kd.imagesFetched.Add(1)
	return b, nil
}

func wrongSize(place string, has, want int64, stated bool) error {
	if stated {
		return fmt.Errorf("%s: %w: it has %d bytes or more, the image that depends on it says %d", place, container.ErrInvalid, has, want)
	}
	return fmt.Errorf("%s: %w: it has %d bytes, which is not what was announced, or more than %d", place, container.ErrInvalid, has, want)
}

// cancelled ends a stream with its context.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// signature fetches the signature of an image.
func (kd *kind) signature(ctx context.Context, at location) (_ []byte, err error) {
	content, _, err := kd.open(ctx, at.Signature)
	if errors.Is(err, container.ErrNotFound) {
		return nil, fmt.Errorf("%w: there is no signature for it, and --appc_keyring wants one: %v", container.ErrDenied, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	signature, err := io.ReadAll(io.LimitReader(&cancelled{ctx, content}, maxSignature+1))
	if err == nil && len(signature) > maxSignature {
		err = fmt.Errorf("%s: %w: a signature has at most %d bytes", at.Signature, container.ErrInvalid, maxSignature)
	}
	return signature, err
}

func (b *bundle) close() error { return b.file.Close() }

// content is the bytes of the file, from the beginning.
func (b *bundle) content() io.Reader { return io.NewSectionReader(b.file, 0, b.size) }

// read reads the image and writes its layer to out.
func (kd *kind) read(ctx context.Context, b *bundle, kept whitelist, out io.Writer) (_ *contents, err error) {
	tar, err := inflate(ctx, b.content(), kd.passphrase)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	found, err := read(tar, kept, out)
	if err != nil {
		return nil, tar.blame(err)
	}
	return found, nil
}
