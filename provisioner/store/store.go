// Package store defines how an image is found, fetched and kept.
//
// A store understands one kind of image. It maps what a user asks for to an image:
// an ordered list of layers, which lie in a layer.Store that several stores may
// share, and a configuration. What it has fetched it records, so that the next Get
// needs no network.
//
// An image is absent or recorded. A recorded image says what its layers are; should
// one of them be absent or broken, Get fetches that one again.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "berth/api/v1"
	"berth/image"
	"berth/layer"
)

// Image is an image whose layers are visible and stay so: until Release or, of Store.Use, as
// long as somebody's record says so.
type Image struct {
	Record
	Config *image.Config
	// Documents are where all this is from, if the store keeps them.
	Documents Documents
	// Pull tells how the image came into the store; nil: it was there.
	Pull  *PullReport
	lease *layer.Lease
}

// NewImage ties an image to the lease that holds its layers, if one does.
func NewImage(record Record, config *image.Config, lease *layer.Lease) *Image {
	return &Image{Record: record, Config: config, lease: lease}
}

// Release gives up the hold on the layers. Whoever goes on using them has recorded
// that before.
func (i *Image) Release() error {
	if i.lease == nil {
		return nil
	}
	return i.lease.Release()
}

// Documents describe an image, in the bytes that were received.
type Documents struct {
	// Indexes led to the manifest, the outermost first; Manifest is "" for an image of an
	// archive that has none.
	Indexes          []string
	Manifest, Config string
}

// Record is what a store keeps of an image.
type Record struct {
	// Reference is the canonical name; Platform is set when one was asked for.
	Reference string `json:"reference"`
	Platform  string `json:"platform,omitempty"`
	// ID is the digest of the image's configuration.
	ID image.Digest `json:"id"`
	// Layers are the diffIDs, base first, each once: of a layer that occurs again
	// higher up, only the upper place has an effect.
	Layers []image.Digest `json:"layers"`
	// Labels are those of the configuration: free text of whoever made the image, which
	// berth passes on and never acts upon.
	Labels map[string]string `json:"labels,omitempty"`
	Pulled time.Time         `json:"pulled"`
}

// Store is one kind of images. Its methods may be called concurrently, also in several
// processes on one directory.
type Store interface {
	// Get returns the image, with its layers in the given form. Unless img.Cached is
	// false, an image that is recorded and whose layers are all there is returned
	// without asking its source. Of one that lacks layers, because they are absent or
	// broken, these are fetched as the record says, so that it stays the image that it
	// was; it is pulled anew when the source has them no longer. A record that cannot be
	// read counts as none, unless a newer berth wrote it.
	//
	// A nil error proves that every layer had its digest and is on stable storage,
	// and that the image is recorded. The caller owes a Release. After an error
	// nothing new is visible but, possibly, whole layers.
	//
	// ErrInvalid: the name or what was found under it is malformed; ErrNotFound: no
	// such image or none for the platform; ErrNotSupported: it is of a kind that this
	// store does not read, or its record is of a newer berth; ErrDenied, ErrUnavailable:
	// see package registry.
	Get(ctx context.Context, img *v1.Image, form layer.Form) (*Image, error)

	// Use is Get of an image of which nothing is to be fetched and no layer to be verified,
	// for who records that it is used: record does, in what every sweep counts, and is given
	// what the store has recorded of the image. What is known of the layers is returned in
	// their order. The image needs no Release: see layer.Store.Use.
	//
	// Of another image it returns nil and calls nobody; Get is to be asked. Errors are those
	// of Get, and of record.
	Use(ctx context.Context, img *v1.Image, form layer.Form, record func(Record) error) (*Image, []layer.Info, error)

	// Reference returns the name under which an image is recorded, Record.Reference,
	// whether it is or not. Errors are those of Get that concern the name.
	Reference(img *v1.Image) (string, error)

	// List returns the recorded images, ordered by reference. Beside an error, of which
	// each part is a *RecordError when only single records cannot be read, it returns
	// the others.
	List(ctx context.Context) ([]Record, error)

	// Forget forgets recorded images, of List, at once but not durably: that is Sync's.
	// Prune calls it while others wait. One that is forgotten already is no error. After
	// an error some are forgotten; it may be repeated.
	Forget(ctx context.Context, records []Record) error

	// Sync makes durable what Forget has done, also in other processes.
	Sync() error

	// Refetch stages in the lease, in a form, those of the layers that recorded images have,
	// each from where its image came from and with nothing else, and returns which these are.
	// Where one image fails, others that have the layer are tried. Layers of no image
	// that can be read are not among them, and no error. The caller commits.
	//
	// The error joins what kept single layers from being fetched; the others are staged.
	// Classes are those of Get.
	Refetch(ctx context.Context, form layer.Form, ids []image.Digest, lease *layer.Lease) ([]image.Digest, error)

	// Remove forgets the images recorded under a name, for every platform, durably; also
	// one whose record cannot be read. Their layers stay until the next sweep.
	// ErrNotFound when there is none, ErrNotSupported when a newer berth recorded one.
	Remove(ctx context.Context, img *v1.Image) error

	// Unknown returns the paths of files in the store's directories that are not its own.
	// They are left alone.
	Unknown() ([]string, error)
}

// Partial is what is kept of a blob whose download was interrupted.
type Partial struct {
	Blob  image.Digest
	Bytes int64 // that it occupies on disk
}

// Resumer is a Store that goes on with interrupted downloads where they were.
type Resumer interface {
	// Abandoned returns what is kept of downloads that nobody, in any process, carries on
	// just now, and unless dryRun removes it. Those of which it returns nothing stay; what is
	// returned beside an error is gone.
	Abandoned(dryRun bool) ([]Partial, error)
}

// RecordError is a record that cannot be read. Whoever meets one does not know which
// layers its image has.
type RecordError struct {
	Path string // of the record
	// Reference and Platform are those of the image, empty when they are not known.
	Reference, Platform string
	Err                 error
}

func (e *RecordError) Error() string { return fmt.Sprintf("image record %s: %v", e.Path, e.Err) }

func (e *RecordError) Unwrap() error { return e.Err }

// Unreadable takes an error of List apart: into the records that cannot be read, and
// what else there is.
func Unreadable(err error) (records []*RecordError, rest error) {
	if rec, ok := err.(*RecordError); ok {
		return []*RecordError{rec}, nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || !errors.As(err, new(*RecordError)) {
		return nil, err
	}
	var others []error
	for _, part := range joined.Unwrap() {
		unreadable, other := Unreadable(part)
		records, others = append(records, unreadable...), append(others, other)
	}
	return records, errors.Join(others...)
}

// Stage is where a layer is on its way into the store.
type Stage int

// The stages. A layer goes from Waiting to Unpacked; one that was there already is
// Present and nothing else.
const (
	Waiting Stage = iota
	Fetching
	Unpacked
	Present
)

// Event tells how one layer of a pull goes.
type Event struct {
	Image string
	Layer image.Digest // of the blob
	Stage Stage
	Done  int64 // bytes of the blob, Total in all
	Total int64
}

// Progress is told of every change, by several goroutines at a time; it must not
// block.
type Progress func(Event)
