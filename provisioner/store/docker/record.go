package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
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

// record is an image record on disk. Manifest and Config are the bytes as they were
// received, so that their digests can be checked and the image be exported.
type record struct {
	Version int `json:"version"`
	store.Record
	ManifestDigest image.Digest `json:"manifestDigest,omitempty"` // none for an archive
	Source         *sourceFile  `json:"source,omitempty"`         // none for a registry
	Blobs          []blob       `json:"blobs"`                    // of the layers in Layers
	Manifest       string       `json:"manifest,omitempty"`
	Config         string       `json:"config"`
}

// blob is where the layer with DiffID came from.
type blob struct {
	DiffID    image.Digest `json:"diffID"`
	Digest    image.Digest `json:"digest"`
	Size      int64        `json:"size"`
	MediaType string       `json:"mediaType"`
}

// sourceFile identifies the content of an archive file. The time of its last change is
// the one thing that no tool can set back: a file that is written over may keep its
// inode and its size, and get its old modification time.
type sourceFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Mtime  int64  `json:"mtime"` // ns
	Change int64  `json:"ctime"` // ns
	Inode  uint64 `json:"inode"`
}

func identify(path string, info fs.FileInfo) *sourceFile {
	stat := info.Sys().(*syscall.Stat_t)
	return &sourceFile{Path: path, Size: info.Size(), Mtime: info.ModTime().UnixNano(), Change: changeTime(stat), Inode: stat.Ino}
}

// unchanged reports whether the file is the one that was read; what came from a
// registry does not change.
func (f *sourceFile) unchanged() bool {
	if f == nil {
		return true
	}
	now, err := os.Stat(f.Path)
	return err == nil && *identify(f.Path, now) == *f
}

// records is a directory of records, one file each.
type records struct {
	dir string
}

func openRecords(dir string) (records, error) {
	return records{dir}, disk.MkdirAll(dir, 0o700)
}

// path names the file after the image, or after a digest of its name where that is
// longer than a file name may be. No reference has a comma once it is escaped.
func (r records) path(k key) string {
	const maxName = 200
	name := url.PathEscape(k.reference.String())
	if k.platform != "" {
		name += "," + url.PathEscape(k.platform)
	}
	if len(name) > maxName {
		sum := sha256.Sum256([]byte(name))
		name = name[:maxName-2*sha256.Size] + hex.EncodeToString(sum[:])
	}
	return filepath.Join(r.dir, name+".json")
}

// load reads a record; ErrNotFound when there is none.
func (r records) load(k key) (*record, error) {
	return readRecord(r.path(k))
}

func readRecord(path string) (*record, error) {
	data, err := disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, container.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	rec, err := parseRecord(data)
	if err != nil {
		return nil, fmt.Errorf("image record %s: %w", path, err)
	}
	return rec, nil
}

func parseRecord(data []byte) (*record, error) {
	const remedy = "remove the file to have the image pulled again"
	// The version first: all else may mean something else in another one.
	var form struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return nil, fmt.Errorf("%w: %s", err, remedy)
	}
	if form.Version != recordVersion {
		return nil, fmt.Errorf("%w: it is of version %d, this berth knows version %d: use the berth that wrote it, or %s",
			container.ErrNotSupported, form.Version, recordVersion, remedy)
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("%w: %s", err, remedy)
	}
	if image.DigestOf([]byte(rec.Config)) != rec.ID {
		return nil, fmt.Errorf("the configuration in it does not have the digest %s: %s", rec.ID, remedy)
	}
	return &rec, nil
}

// save makes a record durable and then visible, by way of the lease's directory.
func (r records) save(k key, rec *record, lease *layer.Lease) error {
	if !utf8.ValidString(rec.Manifest) || !utf8.ValidString(rec.Config) {
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
	return atomicfile.WriteVia(tmp, r.path(k), []byte(text.String()), 0o600, true)
}

// remove reports whether the record was there.
func (r records) remove(k key) (bool, error) {
	err := disk.Remove(r.path(k))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, atomicfile.SyncDir(r.dir)
}

func (r records) list() ([]store.Record, error) {
	entries, err := disk.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []store.Record
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		rec, err := readRecord(filepath.Join(r.dir, e.Name()))
		if errors.Is(err, container.ErrNotFound) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rec.Record)
	}
	slices.SortFunc(all, func(a, b store.Record) int {
		return strings.Compare(a.Reference+"\x00"+a.Platform, b.Reference+"\x00"+b.Platform)
	})
	return all, nil
}
