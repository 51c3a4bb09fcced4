package layer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"berth/image"
)

// Convert stages those of the layers in the form that the store has in another form, or whose
// copy in this one is broken in what can be made again, by the tar that lies in the store:
// nothing is fetched. It returns the others. The layers are held, and absent in the form.
//
// An error says that a tar could not be written in the form.
func (l *Lease) Convert(ctx context.Context, form Form, ids []image.Digest) (rest []image.Digest, err error) {
	for _, id := range ids {
		converted, err := l.convert(ctx, form, id)
		if err != nil {
			return nil, fmt.Errorf("layer %s: convert it to the form %s: %w", id, form, err)
		}
		if !converted {
			rest = append(rest, id)
		}
	}
	return rest, nil
}

func (l *Lease) convert(ctx context.Context, form Form, id image.Digest) (bool, error) {
	forms, err := l.store.Forms(id)
	if err != nil {
		return false, err
	}
	for _, from := range forms {
		converted, err := l.convertFrom(ctx, from, form, id)
		if converted || err != nil {
			return converted, err
		}
	}
	return false, nil
}

// convertFrom reports false when the tar cannot be had of the form from: it is broken, or was
// removed meanwhile.
func (l *Lease) convertFrom(ctx context.Context, from, to Form, id image.Digest) (bool, error) {
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := l.store.writeTarOf(ctx, id, from, w)
		w.CloseWithError(err)
		read <- err
	}()
	_, err := l.Unpack(ctx, to, id, r)
	r.CloseWithError(errEnough)
	switch readErr := <-read; {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case readErr != nil && !errors.Is(readErr, errEnough):
		return false, nil
	}
	return err == nil, err
}

// errEnough ends the reading of a tar that nobody wants any more.
var errEnough = errors.New("the tar is not wanted any more")
