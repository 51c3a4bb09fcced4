package appc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"berth/container"
	"berth/layer"
)

// inflated is the tar in the file of an image.
type inflated struct {
	io.ReadCloser
	plain *decrypted // nil: the file is not encrypted
}

// inflate returns the tar in the file of an image, which is decrypted with passphrase
// (nil: there is none) if need be, and uncompressed, whatever its name says. The tar is
// bounded as a layer is, and ends with ctx. Errors of content are returned as they are;
// ErrInvalid: it is no image; ErrFailedPrecondition: it is encrypted, and the passphrase is
// missing or wrong.
func inflate(ctx context.Context, content io.Reader, passphrase []byte) (*inflated, error) {
	stored := &stored{ctx: ctx, r: content}
	buffered := bufio.NewReaderSize(stored, 64<<10)
	encrypted, err := isEncrypted(buffered)
	if err != nil {
		return nil, err
	}
	tar := &inflated{}
	from := io.Reader(buffered)
	if encrypted {
		if tar.plain, err = decrypt(stored, buffered, passphrase); err != nil {
			return nil, err
		}
		from = tar.plain
	}
	if tar.ReadCloser, err = layer.Inflate(ctx, from, layer.DefaultLimits, stored.read); err != nil {
		return nil, tar.blame(err)
	}
	return tar, nil
}

// blame returns why the tar is none: a wrong passphrase makes of a message what may look
// like anything, and only its end tells.
func (i *inflated) blame(err error) error {
	if i.plain == nil || !errors.Is(err, container.ErrInvalid) {
		return err
	}
	limits := layer.DefaultLimits
	_, wrong := io.Copy(io.Discard, io.LimitReader(i.plain, limits.Base+limits.Ratio*i.plain.from.n))
	if wrong != nil {
		return wrong
	}
	return err
}

// stored is the bytes of an image's file, counted. It keeps their error, which tells a file
// that cannot be read from one that has the wrong bytes.
type stored struct {
	ctx context.Context
	r   io.Reader
	n   int64
	err error
}

func (s *stored) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *stored) read() int64 { return s.n }

// decrypted is the content of an encrypted file.
type decrypted struct {
	r    io.Reader
	from *stored
	err  error
}

func (d *decrypted) Read(p []byte) (n int, err error) {
	if d.err != nil {
		return 0, d.err
	}
	n, d.err = d.r.Read(p)
	if d.err != nil && d.err != io.EOF {
		d.err = d.from.undecrypted(d.err)
	}
	return n, d.err
}

// undecrypted says what is wrong with encrypted bytes, if it is not that they cannot be
// read.
func (s *stored) undecrypted(err error) error {
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("%w: it is encrypted with another passphrase than that in --appc_passphrase_file, or damaged: %w",
		container.ErrFailedPrecondition, err)
}
