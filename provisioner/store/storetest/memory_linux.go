package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// Memory is the source and the records of a store that does only what the contract
// says. The store itself is Open's.
type Memory struct {
	mu        sync.Mutex
	published map[string]Image
	recorded  map[string]store.Record
	requests  int
}

// NewMemory returns an empty source.
func NewMemory() *Memory {
	return &Memory{published: make(map[string]Image), recorded: make(map[string]store.Record)}
}

// Source is the Memory as the suite wants it.
func (m *Memory) Source() Source {
	return Source{
		Open: func(_ testing.TB, layers *layer.Store, progress store.Progress) store.Store {
			return m.Open(layers, progress)
		},
		Publish:  func(_ testing.TB, name string, img Image) { m.Publish(name, img) },
		Image:    m.Image,
		Requests: m.Requests,
	}
}

// Publish puts an image under a name.
func (m *Memory) Publish(name string, img Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.published[name] = img
}

// Image is how to ask for the image of a name. They pass as Docker's.
func (m *Memory) Image(name string) *v1.Image {
	return &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: &name}}
}

// Requests counts the Gets that went to the source.
func (m *Memory) Requests() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.requests
}

// Open returns a store of the images. progress may be nil.
func (m *Memory) Open(layers *layer.Store, progress store.Progress) store.Store {
	if progress == nil {
		progress = func(store.Event) {}
	}
	return &memoryStore{Memory: m, layers: layers, progress: progress}
}

type memoryStore struct {
	*Memory
	layers   *layer.Store
	progress store.Progress
}

func (s *memoryStore) Get(ctx context.Context, img *v1.Image, form layer.Form) (_ *store.Image, err error) {
	name, err := nameOf(img)
	if err != nil {
		return nil, err
	}
	lease, err := s.layers.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lease.Release()
		}
	}()
	if rec, ok := s.record(name); ok && img.GetCached() {
		absent, err := lease.Hold(ctx, form, rec.Layers)
		if err != nil {
			return nil, err
		}
		if len(absent) == 0 {
			return store.NewImage(rec, &image.Config{DiffIDs: rec.Layers}, lease), nil
		}
	}
	rec, err := s.pull(ctx, name, form, lease)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", name, err)
	}
	return store.NewImage(rec, &image.Config{DiffIDs: rec.Layers}, lease), nil
}

func (s *memoryStore) Use(ctx context.Context, img *v1.Image, form layer.Form, record func(store.Record) error) (*store.Image, []layer.Info, error) {
	name, err := nameOf(img)
	if err != nil {
		return nil, nil, err
	}
	rec, ok := s.record(name)
	if !ok || !img.GetCached() {
		return nil, nil, nil
	}
	infos, err := s.layers.Use(ctx, form, rec.Layers, func() error { return record(rec) })
	if infos == nil || err != nil {
		return nil, nil, err
	}
	return store.NewImage(rec, &image.Config{DiffIDs: rec.Layers}, nil), infos, nil
}

func nameOf(img *v1.Image) (string, error) {
	if img.GetType() != v1.Image_DOCKER {
		return "", fmt.Errorf("image of type %s: %w", img.GetType(), container.ErrInvalid)
	}
	return img.GetDocker().GetName(), nil
}

func (s *memoryStore) record(name string) (store.Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, ok := s.recorded[name]
	return rec, ok
}

func (s *memoryStore) pull(ctx context.Context, name string, form layer.Form, lease *layer.Lease) (store.Record, error) {
	s.mu.Lock()
	s.requests++
	published, ok := s.published[name]
	s.mu.Unlock()
	if !ok {
		return store.Record{}, container.ErrNotFound
	}
	published = published.once()
	ids := published.DiffIDs()
	absent, err := lease.Hold(ctx, form, ids)
	if err != nil {
		return store.Record{}, err
	}
	for i, id := range ids {
		if !slices.Contains(absent, id) {
			s.progress(store.Event{Image: name, Layer: id, Total: int64(len(published[i])), Stage: store.Present})
		} else if err := s.fetch(ctx, form, name, published[i], lease); err != nil {
			return store.Record{}, err
		}
	}
	if err := lease.Commit(ctx); err != nil {
		return store.Record{}, err
	}
	rec := store.Record{Reference: name, ID: image.DigestOf([]byte(fmt.Sprint(ids))), Layers: ids}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recorded[name] = rec
	return rec, nil
}

func (s *memoryStore) fetch(ctx context.Context, form layer.Form, name string, tar []byte, lease *layer.Lease) error {
	event := store.Event{Image: name, Layer: image.DigestOf(tar), Total: int64(len(tar)), Stage: store.Fetching}
	s.progress(event)
	if _, err := lease.Unpack(ctx, form, event.Layer, bytes.NewReader(tar)); err != nil {
		return fmt.Errorf("layer %s: %w", event.Layer, err)
	}
	event.Stage, event.Done = store.Unpacked, event.Total
	s.progress(event)
	return nil
}

func (s *memoryStore) List(context.Context) ([]store.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.recorded), func(a, b store.Record) int { return strings.Compare(a.Reference, b.Reference) }), nil
}

func (s *memoryStore) Reference(img *v1.Image) (string, error) { return nameOf(img) }

func (s *memoryStore) Forget(_ context.Context, records []store.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range records {
		delete(s.recorded, rec.Reference)
	}
	return nil
}

func (s *memoryStore) Sync() error { return nil }

func (s *memoryStore) Refetch(ctx context.Context, form layer.Form, ids []image.Digest, lease *layer.Lease) (fetched []image.Digest, err error) {
	recorded, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, rec := range recorded {
		s.mu.Lock()
		published := s.published[rec.Reference]
		s.mu.Unlock()
		for i, id := range published.DiffIDs() {
			if !slices.Contains(ids, id) || slices.Contains(fetched, id) {
				continue
			}
			if err := s.fetch(ctx, form, rec.Reference, published[i], lease); err != nil {
				return fetched, err
			}
			fetched = append(fetched, id)
		}
	}
	return fetched, nil
}

func (s *memoryStore) Unknown() ([]string, error) { return nil, nil }

func (s *memoryStore) Remove(_ context.Context, img *v1.Image) error {
	name, err := nameOf(img)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.recorded[name]; !ok {
		return fmt.Errorf("remove image %s: %w", name, container.ErrNotFound)
	}
	delete(s.recorded, name)
	return nil
}
