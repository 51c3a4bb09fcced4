package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"berth/container"
	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/provisioner/store"
)

// Use is a root filesystem that exists or is being made.
type Use struct {
	Container container.ID   `json:"-"`
	Backend   string         `json:"backend"`
	Image     string         `json:"image"`
	Layers    []image.Digest `json:"layers"` // base first
}

// recordVersion is that of layersRecord.
const recordVersion = 1

// layersRecord is the file `layers` of a container.
type layersRecord struct {
	Version  int            `json:"version"`
	Rootfses map[string]Use `json:"rootfses"`
}

// record adds a root filesystem to the container's record.
func (p *Provisioner) record(id container.ID, rootfsID string, found *store.Image) error {
	rec, err := p.readRecord(id)
	if err != nil {
		return err
	}
	rec.Rootfses[rootfsID] = Use{Backend: p.Backend, Image: found.Reference, Layers: found.Layers}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	if err := disk.MkdirAll(p.Paths.BackendDir(id, p.Backend), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(p.Paths.Layers(id), append(data, '\n'), 0o600, false)
}

func (p *Provisioner) readRecord(id container.ID) (layersRecord, error) {
	data, err := disk.ReadFile(p.Paths.Layers(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return layersRecord{}, err
	}
	rec, err := parseRecord(data)
	if err != nil {
		return layersRecord{}, fmt.Errorf("record of the layers of %s: %w", id, err)
	}
	return rec, nil
}

// parseRecord reads a container's record. An empty or torn one, which is no JSON, is
// that of an interrupted launch before a power cut: no root filesystem of it is mounted.
func parseRecord(data []byte) (layersRecord, error) {
	// The version first: all else may mean something else in another one.
	var form struct {
		Version int `json:"version"`
	}
	rec := layersRecord{Version: recordVersion}
	if !json.Valid(data) {
		rec.Rootfses = make(map[string]Use)
		return rec, nil
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return layersRecord{}, err
	}
	if form.Version != recordVersion {
		return layersRecord{}, fmt.Errorf("%w: it is of version %d, this berth knows version %d: use the berth that wrote it",
			container.ErrNotSupported, form.Version, recordVersion)
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return layersRecord{}, err
	}
	if rec.Rootfses == nil {
		rec.Rootfses = make(map[string]Use)
	}
	return rec, nil
}

// Uses returns all root filesystems of all containers.
func (p *Provisioner) Uses() ([]Use, error) { return p.usesBelow(container.ID{}) }

func (p *Provisioner) usesBelow(parent container.ID) (uses []Use, err error) {
	children, err := p.children(parent)
	if err != nil {
		return nil, err
	}
	for _, id := range children {
		rec, err := p.readRecord(id)
		if err != nil {
			return nil, err
		}
		for _, rootfsID := range slices.Sorted(maps.Keys(rec.Rootfses)) {
			use := rec.Rootfses[rootfsID]
			use.Container = id
			uses = append(uses, use)
		}
		below, err := p.usesBelow(id)
		if err != nil {
			return nil, err
		}
		uses = append(uses, below...)
	}
	return uses, nil
}

// Sweep removes the layers that no recorded image and no container uses, and returns
// their diffIDs.
func (p *Provisioner) Sweep(ctx context.Context) ([]image.Digest, error) {
	return p.Layers.Sweep(ctx, func() (map[image.Digest]bool, error) {
		keep := make(map[image.Digest]bool)
		for _, s := range p.Stores {
			recorded, err := s.List(ctx)
			if err != nil {
				return nil, err
			}
			for _, rec := range recorded {
				keepAll(keep, rec.Layers)
			}
		}
		uses, err := p.Uses()
		for _, use := range uses {
			keepAll(keep, use.Layers)
		}
		return keep, err
	})
}

func keepAll(keep map[image.Digest]bool, ids []image.Digest) {
	for _, id := range ids {
		keep[id] = true
	}
}
