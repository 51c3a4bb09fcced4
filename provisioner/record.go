package provisioner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"berth/container"
	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/provisioner/store"
	"berth/state"
)

// Use is a root filesystem that exists or is being made.
type Use struct {
	Container container.ID `json:"-"`
	Rootfs    string       `json:"-"` // its path
	Backend   string       `json:"backend"`
	// Image and Platform are those of the image's record, store.Record.
	Image    string         `json:"image"`
	Platform string         `json:"platform,omitempty"`
	Layers   []image.Digest `json:"layers"` // base first
	// Ephemeral are the directories with what the container writes: whoever watches its
	// disk quota finds them after a restart.
	Ephemeral []string `json:"ephemeral_volumes,omitempty"`
}

// recordVersion is that of layersRecord.
const recordVersion = 1

// layersRecord is the file `layers` of a container: every root filesystem of it, by the
// name of its directory.
//
// One of another version belongs to a newer berth. Nobody changes it, and nobody
// removes layers as long as it is there, because it may speak of any of them. But the
// container can be destroyed: that goes by the tree.
type layersRecord struct {
	Version  int            `json:"version"`
	Rootfses map[string]Use `json:"rootfses"`
}

// record adds a root filesystem to the container's record, and makes the directory of its
// backend. Until it returns something else keeps sweeps from the layers.
func (p *Provisioner) record(id container.ID, m *provisioning, img store.Record) error {
	rec, err := p.recordSoFar(id)
	if err != nil {
		return err
	}
	dir := p.Paths.BackendDir(id, p.Backend)
	rec.Rootfses[filepath.Base(m.path)] = Use{
		Backend: p.Backend, Image: img.Reference, Platform: img.Platform, Layers: img.Layers,
		Ephemeral: m.to.Ephemeral(m.path, dir),
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data = append(data, '\n')
	if len(rec.Rootfses) == 1 {
		// Nobody needs the first one before it is whole.
		return disk.WriteFile(p.Paths.Layers(id), data, 0o600)
	}
	return atomicfile.Write(p.Paths.Layers(id), data, 0o600, false)
}

// recordSoFar is readRecord for who adds to it: the directory of the container is made, and
// if it is new there is nothing to read.
func (p *Provisioner) recordSoFar(id container.ID) (layersRecord, error) {
	if disk.Mkdir(p.Paths.Container(id), 0o700) == nil {
		return parseRecord(nil)
	}
	return p.readRecord(id)
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
// that of an interrupted launch: no root filesystem of it is mounted.
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

// Uses returns all root filesystems of all containers. Beside an error, which has a part
// for each record that cannot be read, it returns those of the others.
func (p *Provisioner) Uses() (uses []Use, err error) {
	var errs []error
	err = p.eachRecord(func(id container.ID, rec layersRecord, err error) {
		uses = append(uses, p.usesIn(id, rec)...)
		errs = append(errs, err)
	})
	return uses, errors.Join(append(errs, err)...)
}

func (p *Provisioner) usesIn(id container.ID, rec layersRecord) (uses []Use) {
	for _, rootfsID := range slices.Sorted(maps.Keys(rec.Rootfses)) {
		use := rec.Rootfses[rootfsID]
		use.Container = id
		use.Rootfs = state.Rootfs(p.Paths.BackendDir(id, use.Backend), rootfsID)
		uses = append(uses, use)
	}
	return uses
}

// eachRecord calls visit for each container, parents first, with its record or with why
// that cannot be read.
func (p *Provisioner) eachRecord(visit func(container.ID, layersRecord, error)) error {
	return p.eachContainer(container.ID{}, func(id container.ID) {
		rec, err := p.readRecord(id)
		visit(id, rec, err)
	})
}

// eachContainer calls visit for each container below parent that has a directory,
// parents first.
func (p *Provisioner) eachContainer(parent container.ID, visit func(container.ID)) error {
	children, err := p.children(parent)
	errs := []error{err}
	for _, id := range children {
		visit(id)
		errs = append(errs, p.eachContainer(id, visit))
	}
	return errors.Join(errs...)
}
