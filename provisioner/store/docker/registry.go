package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"berth/container"
	"berth/image"
	"berth/internal/stages"
	"berth/provisioner/store/fetch"
	"berth/registry"
)

// registrySource is one image in a registry.
type registrySource struct {
	client   *registry.Client
	partials *fetch.Partials
	name     image.Name
	want     image.Platform
}

// Resolve implements fetch.Source.
func (r *registrySource) Resolve(ctx context.Context) (*fetch.Resolved, error) {
	first, err := r.manifest(ctx, r.name)
	if err != nil {
		return nil, err
	}
	parsed, err := image.ParseManifest(first.MediaType, first.Body)
	if err != nil {
		return nil, err
	}
	if old, ok := parsed.(*image.Schema1); ok {
		return r.resolveSchema1(ctx, first, old)
	}
	return fetch.Find(ctx, r, first, r.want)
}

func (r *registrySource) manifest(ctx context.Context, name image.Name) (fetch.Document, error) {
	raw, err := r.client.Manifest(ctx, name)
	return fetch.Document{MediaType: raw.MediaType, Body: raw.Body}, err
}

// Document implements fetch.Documents.
func (r *registrySource) Document(ctx context.Context, d image.Descriptor) (fetch.Document, error) {
	name := r.name
	name.Tag, name.Digest = "", d.Digest
	return r.manifest(ctx, name)
}

// Config implements fetch.Documents.
func (r *registrySource) Config(ctx context.Context, d image.Descriptor) ([]byte, error) {
	if d.Size > image.MaxConfigSize {
		return nil, fmt.Errorf("configuration %s: %w: it has %d bytes, at most %d are allowed", d.Digest, container.ErrInvalid, d.Size, image.MaxConfigSize)
	}
	for {
		body, err := r.client.Blob(ctx, r.name, d)
		if err != nil {
			return nil, err
		}
		config, err := io.ReadAll(body)
		err = errors.Join(err, body.Close())
		if !errors.Is(err, container.ErrInvalid) || !body.Distrust() {
			return config, err
		}
	}
}

// Recall has nothing to do: what a digest names does not change.
func (r *registrySource) Recall(context.Context, fetch.Recorded) error { return nil }

// Open implements fetch.Source.
func (r *registrySource) Open(ctx context.Context, l fetch.Layer) (io.ReadCloser, error) {
	return r.partials.Resume(l.Descriptor, func(begun io.Reader, n int64) (fetch.Blob, error) {
		return r.blob(ctx, l.Descriptor, begun, n)
	})
}

// blob opens a blob of which n bytes are there.
func (r *registrySource) blob(ctx context.Context, d image.Descriptor, begun io.Reader, n int64) (fetch.Blob, error) {
	// The last request is the one for the blob; those before it were part of the way there.
	var connected atomic.Pointer[time.Time]
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		now := time.Now()
		connected.Store(&now)
	}})
	body, err := r.client.BlobFrom(traced, r.name, d, begun, n)
	if at := connected.Load(); at != nil {
		stages.Of(ctx).EnterAt(stages.FirstByte, *at)
	}
	return body, err
}

// Close implements fetch.Source.
func (r *registrySource) Close() error { return nil }
