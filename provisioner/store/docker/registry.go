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
	"berth/registry"
)

// maxIndexDepth bounds indexes of indexes.
const maxIndexDepth = 3

// registrySource is one image in a registry.
type registrySource struct {
	client *registry.Client
	name   image.Name
	want   image.Platform
}

func (r *registrySource) resolve(ctx context.Context) (*resolved, error) {
	raw, manifest, err := r.manifest(ctx)
	if err != nil {
		return nil, err
	}
	config, err := r.config(ctx, manifest.Config)
	if err != nil {
		return nil, err
	}
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	if err := suits(r.want, parsed.Platform); err != nil {
		return nil, err
	}
	layers, err := pair(parsed, manifest.Layers)
	if err != nil {
		return nil, err
	}
	return &resolved{manifest: string(raw.Body), manifestDigest: raw.Digest, config: config, parsed: parsed, layers: layers}, nil
}

// manifest follows indexes to the manifest for the wanted platform.
func (r *registrySource) manifest(ctx context.Context) (registry.Raw, *image.Manifest, error) {
	name := r.name
	for range maxIndexDepth + 1 {
		raw, err := r.client.Manifest(ctx, name)
		if err != nil {
			return registry.Raw{}, nil, err
		}
		document, err := image.ParseManifest(raw.MediaType, raw.Body)
		if err != nil {
			return registry.Raw{}, nil, err
		}
		switch d := document.(type) {
		case *image.Manifest:
			return raw, d, nil
		case *image.Index:
			chosen, err := image.Choose(r.want, d.Manifests)
			if err != nil {
				return registry.Raw{}, nil, err
			}
			name.Tag, name.Digest = "", chosen.Digest
		}
	}
	return registry.Raw{}, nil, fmt.Errorf("%w: indexes are nested more than %d deep", container.ErrInvalid, maxIndexDepth)
}

func (r *registrySource) config(ctx context.Context, d image.Descriptor) (_ []byte, err error) {
	if d.Size > image.MaxConfigSize {
		return nil, fmt.Errorf("configuration %s: %w: it has %d bytes, at most %d are allowed", d.Digest, container.ErrInvalid, d.Size, image.MaxConfigSize)
	}
	body, err := r.client.Blob(ctx, r.name, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	return io.ReadAll(body)
}

// recall has nothing to do: what a digest names does not change.
func (r *registrySource) recall(context.Context, *record) error { return nil }

func (r *registrySource) open(ctx context.Context, l fetchable) (io.ReadCloser, error) {
	// The last request is the one for the blob; those before it were part of the way there.
	var connected atomic.Pointer[time.Time]
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		now := time.Now()
		connected.Store(&now)
	}})
	body, err := r.client.Blob(traced, r.name, l.Descriptor)
	if at := connected.Load(); at != nil {
		stages.Of(ctx).EnterAt(stages.FirstByte, *at)
	}
	return body, err
}

func (r *registrySource) Close() error { return nil }
