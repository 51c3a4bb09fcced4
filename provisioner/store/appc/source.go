package appc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"berth/container"
	"berth/image"
	"berth/image/appc"
	"berth/internal/disk"
	"berth/provisioner/store/fetch"
)

// source is an image and those that it depends on. It implements fetch.Source.
type source struct {
	*kind
	request  appc.Request
	platform image.Platform
	system   appc.System
	tmp      func() (string, error)

	notes   *notes
	bundles []recalledBundle // of the images in notes
}

// Resolve implements fetch.Source. It downloads the images, as only their whole files tell
// what they are.
func (s *source) Resolve(ctx context.Context) (*fetch.Resolved, error) {
	r := newResolver(s)
	err := r.visit(ctx, s.request, 0, nil)
	s.bundles = make([]recalledBundle, len(r.order))
	for i, f := range r.order {
		s.bundles[i].is(f.bundle)
	}
	if err != nil {
		return nil, err
	}
	s.notes = r.notes()
	config, err := configOf(r.top().parsed, s.platform, r.layers)
	if err != nil {
		return nil, err
	}
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	parsed.Appc = r.top().parsed
	return &fetch.Resolved{Config: config, Parsed: parsed, Layers: r.layers, Notes: s.notes}, nil
}

// configOf is the configuration of an image in the words of the others, with which it is
// named. How it is run says its manifest; of users and groups that are paths only that.
func configOf(m *appc.Manifest, platform image.Platform, layers []fetch.Layer) ([]byte, error) {
	config := image.Config{Platform: platform}
	for _, l := range layers {
		config.DiffIDs = append(config.DiffIDs, l.DiffID)
	}
	if app := m.App; app != nil {
		config.Run = image.RunConfig{Cmd: app.Exec, Env: app.Env(), WorkingDir: app.WorkingDirectory}
		if user := cmp.Or(app.User, "0"); !strings.HasPrefix(user+app.Group, "/") {
			config.Run.User = strings.TrimSuffix(user+":"+app.Group, ":")
		}
	}
	return config.MarshalJSON()
}

// Recall implements fetch.Source: the images are where they were, and have to be what they
// were.
func (s *source) Recall(_ context.Context, from fetch.Recorded) error {
	s.notes = from.Notes.(*notes)
	s.bundles = make([]recalledBundle, len(s.notes.Images))
	return nil
}

// Open implements fetch.Source: what it returns ends well only if the image has its id.
func (s *source) Open(ctx context.Context, l fetch.Layer) (io.ReadCloser, error) {
	p, err := s.notes.piece(l.DiffID)
	if err != nil {
		return nil, err
	}
	of := s.notes.Images[p.Image]
	b, err := s.bundles[p.Image].open(func() (*bundle, error) { return s.fetch(ctx, of.At, 0, s.tmp) })
	if err != nil {
		return nil, err
	}
	return s.layerOf(ctx, b, s.notes.whitelist(p), of.ID), nil
}

func (s *source) layerOf(ctx context.Context, b *bundle, kept whitelist, id appc.ID) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	from, to := io.Pipe()
	l := &layerReader{PipeReader: from, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		found, err := s.read(ctx, b, kept, to)
		if err == nil && found.id != id {
			err = fmt.Errorf("%w: its image id is %s, not %s", container.ErrInvalid, found.id, id)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", b.at.Image, err)
		}
		to.CloseWithError(err) // nil: the end of the layer
	}()
	return l
}

// layerReader is the layer of an image, which a goroutine makes as it is read.
type layerReader struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

// Close waits until nobody reads the image any more.
func (l *layerReader) Close() error {
	err := l.PipeReader.Close()
	l.cancel()
	<-l.done
	return err
}

// Close implements fetch.Source.
func (s *source) Close() error {
	var errs []error
	for i := range s.bundles {
		if b := s.bundles[i].bundle; b != nil {
			errs = append(errs, b.close())
		}
	}
	return errors.Join(errs...)
}

// recalledBundle is the file of an image, fetched when the first layer is wanted of it.
type recalledBundle struct {
	once   sync.Once
	bundle *bundle
	err    error
}

func (r *recalledBundle) open(get func() (*bundle, error)) (*bundle, error) {
	r.once.Do(func() {
		if r.bundle, r.err = get(); r.err == nil {
			r.err = disk.At("pull: image is fetched")
		}
	})
	return r.bundle, r.err
}

// is says that the file is here.
func (r *recalledBundle) is(b *bundle) { r.once.Do(func() { r.bundle = b }) }
