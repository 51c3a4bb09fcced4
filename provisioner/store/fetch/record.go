package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"berth/container"
	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/layer"
	"berth/provisioner/store"
)

// recordVersion is that of record.
const recordVersion = 1

// record is an image record on disk. Manifest, Indexes and Config are the bytes as they
// were received, so that their digests can be checked and the image be exported.
type record struct {
	Version int `json:"version"`
	store.Record
	ManifestDigest image.Digest `json:"manifestDigest,omitempty"` // none for an archive and an artifact
	Source         *File        `json:"source,omitempty"`         // none for a registry
	Blobs          []blob       `json:"blobs"`                    // of the layers in Layers
	// Learned says that each of Blobs was unpacked to know its DiffID, which nobody had said.
	Learned  bool     `json:"learned,omitempty"`
	Manifest string   `json:"manifest,omitempty"`
	Indexes  []string `json:"indexes,omitempty"` // that led to the manifest, the outermost first
	Config   string   `json:"config"`
	Notes    Notes    `json:"notes,omitempty"` // of an Annotator
	parsed   *image.Config
}

// blob is where the layer with DiffID came from.
type blob struct {
	DiffID    image.Digest `json:"diffID"`
	Digest    image.Digest `json:"digest"`
	Size      int64        `json:"size"`
	MediaType string       `json:"mediaType"`
	File      string       `json:"file,omitempty"` // of an artifact: image.Descriptor
}

// records is a directory of records, one file each.
type records struct {
	dir    string
	notes  func() Notes // new ones
	recent *recent
}

func openRecords(dir string, notes func() Notes) (records, error) {
	return records{dir, notes, new(recent)}, disk.MkdirAll(dir, 0o700)
}

// path is where the record of the image lies.
func (r records) path(k Key) string { return r.file(k.Reference.String(), k.Platform) }

const (
	maxName = 200
	suffix  = ".json"
)

// file names the file after the image, or after a digest of its name where that is
// longer than a file name may be. No name has a comma once it is escaped.
func (r records) file(reference, platform string) string {
	name := url.PathEscape(reference)
	if platform != "" {
		name += "," + url.PathEscape(platform)
	}
	if len(name) > maxName {
		sum := sha256.Sum256([]byte(name))
		name = name[:maxName-2*sha256.Size] + hex.EncodeToString(sum[:])
	}
	return filepath.Join(r.dir, name+suffix)
}

// nameOf returns which image the file is named after, or nothing when it is named after a
// digest.
func (r records) nameOf(path string) (reference, platform string) {
	name := strings.TrimSuffix(filepath.Base(path), suffix)
	if len(name) == maxName {
		return "", "" // most likely
	}
	name, platform, _ = strings.Cut(name, ",")
	reference, _ = url.PathUnescape(name)
	platform, _ = url.PathUnescape(platform)
	if r.file(reference, platform) != path {
		return "", ""
	}
	return reference, platform
}

// load reads a record. The error is of class ErrNotFound when there is none; else it is
// a *store.RecordError, of class ErrInvalid when the record is broken, so that another may
// take its place, and ErrNotSupported when a newer berth wrote it, so that none may.
func (r records) load(k Key) (*record, error) {
	path := r.path(k)
	rec, file := r.recent.get(path)
	if rec != nil {
		return rec, nil
	}
	rec, err := r.read(path)
	if err == nil {
		r.recent.put(file, rec)
	}
	return rec, err
}

func (r records) read(path string) (*record, error) {
	data, err := disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, container.ErrNotFound
	}
	var rec *record
	if err == nil {
		rec, err = parseRecord(data, r.notes())
	}
	if err == nil && r.file(rec.Reference, rec.Platform) != path {
		err = broken("it is that of the image %q for the platform %q", rec.Reference, rec.Platform)
	}
	if err != nil {
		reference, platform := r.nameOf(path)
		return nil, &store.RecordError{Path: path, Reference: reference, Platform: platform, Err: err}
	}
	return rec, nil
}

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s: pull the image again, or remove it", container.ErrInvalid, fmt.Sprintf(format, args...))
}

// parseRecord accepts what can be relied upon: the layers are those of the configuration,
// and this one has its digest. notes are empty ones.
func parseRecord(data []byte, notes Notes) (*record, error) {
	rec := record{Notes: notes}
	err := json.Unmarshal(data, &rec)
	if err != nil {
		// All but the version may mean something else in another one.
		var form struct {
			Version int `json:"version"`
		}
		rec = record{}
		if json.Unmarshal(data, &form) == nil {
			rec.Version = form.Version
		}
	}
	switch {
	case rec.Version > recordVersion:
		return nil, fmt.Errorf("%w: it is of version %d, this berth knows version %d: use the berth that wrote it, or remove the file",
			container.ErrNotSupported, rec.Version, recordVersion)
	case err != nil:
		return nil, broken("%v", err)
	case notes != nil && rec.Notes == nil:
		return nil, broken("it has no notes")
	}
	return &rec, rec.check()
}

func (r *record) check() (err error) {
	if r.Version != recordVersion {
		return broken("it is of version %d", r.Version)
	}
	if image.DigestOf([]byte(r.Config)) != r.ID {
		return broken("the configuration in it does not have the digest %s", r.ID)
	}
	if r.parsed, err = image.ParseConfig([]byte(r.Config)); err != nil {
		return broken("%v", err)
	}
	r.Labels = r.parsed.Run.Labels
	if !slices.Equal(r.Layers, lastOfEach(r.parsed.DiffIDs, func(id image.Digest) image.Digest { return id })) {
		return broken("the layers in it are not those of the configuration")
	}
	if !slices.Equal(r.Layers, diffIDs(r.origins())) {
		return broken("the blobs in it are not those of the layers")
	}
	if r.Notes == nil {
		return nil
	}
	if err := r.Notes.Check(r.parsed); err != nil {
		return broken("%v", err)
	}
	return nil
}

// image is the recorded image, whose layers a lease holds.
func (r *record) image(lease *layer.Lease) *store.Image {
	img := store.NewImage(r.Record, r.parsed, lease)
	img.Documents = store.Documents{Indexes: r.Indexes, Manifest: r.Manifest, Config: r.Config}
	return img
}

// save makes a record durable and then visible, by way of the lease's directory unless
// that is on another file system.
func (r records) save(k Key, rec *record, lease *layer.Lease) error {
	if !utf8.ValidString(strings.Join(append(rec.Indexes, rec.Manifest, rec.Config), "")) {
		return fmt.Errorf("%w: the manifest or the configuration is not UTF-8", container.ErrInvalid)
	}
	tmp, err := lease.Dir()
	if err != nil {
		return err
	}
	var text strings.Builder
	encode := json.NewEncoder(&text)
	encode.SetEscapeHTML(false)
	encode.SetIndent("", "  ")
	if err := encode.Encode(rec); err != nil {
		return err
	}
	err = atomicfile.WriteVia(tmp, r.path(k), []byte(text.String()), 0o600, true)
	if errors.Is(err, syscall.EXDEV) {
		return atomicfile.Write(r.path(k), []byte(text.String()), 0o600, true)
	}
	return err
}

// forget removes a record, if there is one, but not durably.
func (r records) forget(rec store.Record) error {
	if err := disk.Remove(r.file(rec.Reference, rec.Platform)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// list returns the records that can be read, ordered by reference, and with an error
// those that cannot, see store.Store.
func (r records) list() ([]*record, error) {
	entries, err := disk.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []*record
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		switch rec, err := r.read(filepath.Join(r.dir, e.Name())); {
		case err == nil:
			all = append(all, rec)
		case !errors.Is(err, container.ErrNotFound): // else it was removed meanwhile
			errs = append(errs, err)
		}
	}
	slices.SortFunc(all, func(a, b *record) int {
		return strings.Compare(a.Reference+"\x00"+a.Platform, b.Reference+"\x00"+b.Platform)
	})
	return all, errors.Join(errs...)
}
