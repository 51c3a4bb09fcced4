package layer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
)

// Unpack stages, in a form, the layer whose tar, compressed as Inflate knows it or not at all, is
// the content of blob. It reads blob to its end, in one pass and with bounded
// memory, in a goroutine of its own, see stream. When ctx ends it waits for a Read of blob that
// is under way. A stages.Clock in ctx is told what
// it waits for.
//
// A nil error proves that the tar had the digest want (when want is not empty) and
// that the form is whole; it becomes visible by Commit. An error of blob is
// returned as it is; of class ErrInvalid are a blob that is no tar, a tar that is
// hostile or beyond the limits, and a wrong digest.
func (l *Lease) Unpack(ctx context.Context, form Form, want image.Digest, blob io.Reader) (Info, error) {
	info, dir, err := l.stage(ctx, form, want, blob)
	if err != nil {
		if dir != "" {
			err = errors.Join(err, removeTree(dir))
		}
		return Info{}, l.store.withRemedy(err)
	}
	l.mu.Lock()
	l.staged = append(l.staged, stagedLayer{formOf{info.DiffID, form}, dir})
	l.mu.Unlock()
	return info, nil
}

func (l *Lease) stage(ctx context.Context, form Form, want image.Digest, blob io.Reader) (info Info, dir string, err error) {
	if dir, err = l.newStaging(ctx); err != nil {
		return Info{}, dir, err
	}
	stream, err := open(ctx, blob, l.store.limits)
	if err != nil {
		return Info{}, dir, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	info, err = form.make(stream, dir)
	if err != nil {
		return Info{}, dir, err
	}
	info.Version = 1
	switch {
	case info.Size == 0:
		return Info{}, dir, fmt.Errorf("%w: it is empty, not a tar archive", container.ErrInvalid)
	case want != "" && info.DiffID != want:
		return Info{}, dir, fmt.Errorf("%w: its uncompressed content has the digest %s, the image's configuration says %s",
			container.ErrInvalid, info.DiffID, want)
	}
	if info, err = l.store.seal(ctx, dir, info); err != nil {
		return Info{}, dir, err
	}
	return info, dir, disk.At("pull: layer is unpacked")
}
