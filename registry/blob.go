package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"berth/container"
	"berth/image"
)

// enough is how much a connection has to bring to count as one that works.
const enough = 64 << 10

// Blob opens the blob that d announces, in name's repository; tag and digest of
// name do not matter, and neither do d's URLs: they are never contacted.
//
// The reader hashes as it reads. io.EOF from it proves that exactly d.Size bytes
// were read and that d.Digest is their digest; until then they are a stranger's.
// So a caller has to read up to io.EOF, also past the end of what it decodes. Every
// other end is an error: ErrInvalid if the bytes are others or more, ErrUnavailable if
// they break off or stall for good. A transfer that breaks goes on where it was, as often as
// it takes as long as connections bring something, from the next place if there are mirrors.
//
// ctx governs reading too. A httptrace.ClientTrace in it sees every request that Blob
// makes, those for tokens and along redirects first, the one for the blob last. The
// reader is to be closed; it is not safe for concurrent use. The errors of Blob itself are
// those of Manifest.
func (c *Client) Blob(ctx context.Context, name image.Name, d image.Descriptor) (*Blob, error) {
	return c.BlobFrom(ctx, name, d, nil, 0)
}

// BlobFrom is Blob for who kept the first n bytes of an earlier transfer: they are read
// from kept, and only what is missing is fetched. They need not be trusted, see
// Blob.Distrust.
func (c *Client) BlobFrom(ctx context.Context, name image.Name, d image.Descriptor, kept io.Reader, n int64) (*Blob, error) {
	b, err := c.openBlob(ctx, name, d, kept, n)
	if err != nil {
		return nil, fmt.Errorf("fetch blob %s of %s: %w", d.Digest, name, err)
	}
	return b, nil
}

func (c *Client) openBlob(ctx context.Context, name image.Name, d image.Descriptor, kept io.Reader, n int64) (*Blob, error) {
	if _, err := image.ParseDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	if d.Size < 0 || n < 0 || n > d.Size {
		return nil, fmt.Errorf("%w: a size of %d bytes, of which %d were kept", container.ErrInvalid, d.Size, n)
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	asked := name
	asked.Digest = d.Digest // which mirrors may be asked depends on it
	places, err := c.endpoints(asked)
	if err != nil {
		return nil, err
	}
	b := &Blob{
		client: c, ctx: ctx, name: name, want: d, hash: sha256.New(),
		left: d.Size, next: n, kept: kept, keptLeft: n,
		places: c.distrusted.without(places, d.Digest),
		single: d.Size-n < c.ahead.worth,
	}
	if n > 0 && n == d.Size {
		b.body = http.NoBody
		return b, nil
	}
	if err := c.try(ctx, b.places, b.connect); err != nil {
		return nil, err
	}
	return b, nil
}

// BlobSize asks how many bytes a blob has that a manifest of Docker's schema 1 names, which
// does not say. Errors are those of Manifest; ErrNotSupported: the registry does not say
// either.
func (c *Client) BlobSize(ctx context.Context, name image.Name, digest image.Digest) (int64, error) {
	name.Tag, name.Digest = "", digest
	size, err := c.blobSize(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("size of the blob %s of %s/%s: %w", digest, name.Registry, name.Repository, err)
	}
	return size, nil
}

func (c *Client) blobSize(ctx context.Context, blob image.Name) (size int64, err error) {
	places, err := c.endpoints(blob)
	if err != nil {
		return 0, err
	}
	err = c.try(ctx, places, func(place endpoint) error {
		reply, err := c.get(ctx, place, resource{method: http.MethodHead, path: []string{"blobs", blob.Digest.String()}, missing: missingBlob})
		if err != nil {
			return err
		}
		discard(reply.Body)
		switch size = reply.ContentLength; {
		case size < 0:
			return fmt.Errorf("%s: %w: it does not say how long the blob is", reply.place(), container.ErrNotSupported)
		case size > image.MaxBlobSize:
			return fmt.Errorf("%s: %w: a blob of %d bytes", reply.place(), container.ErrInvalid, size)
		}
		return nil
	})
	return size, err
}

// missingBlob is the remedy if a blob is not there.
const missingBlob = "the image is incomplete in the registry, push it again"

// Blob is a blob on its way, see Client.Blob.
type Blob struct {
	client *Client
	ctx    context.Context // of the whole transfer, which later requests are part of
	name   image.Name
	want   image.Descriptor
	places []endpoint

	body     io.ReadCloser
	place    endpoint        // where body is from
	at       string          // the place in words
	next     int64           // offset of what body brings next
	gained   int64           // what body has brought
	failures int             // in a row that brought next to nothing
	skipped  int             // how often the beginning had to be read again
	noRange  map[string]bool // hosts that refuse to begin in the middle
	mirrors  []endpoint

	storage *url.URL // where place led to another host for body, or nil
	pace    pace     // of body
	single  bool     // no further connections are made
	ahead   *ahead   // takes over from body at its offset; nil, or it has

	kept     io.Reader
	keptLeft int64

	hash hash.Hash
	left int64
	err  error // the end, once it is reached
}

// connect asks a place for what is missing.
func (b *Blob) connect(place endpoint) error {
	wanted := b.resource()
	wanted.from, wanted.end = b.from(place), b.want.Size
	reply, err := b.client.get(b.ctx, place, wanted)
	if err != nil {
		return err
	}
	if reply.StatusCode == http.StatusRequestedRangeNotSatisfiable && !b.noRange[place.base.Host] {
		discard(reply.Body)
		b.noRange = map[string]bool{place.base.Host: true}
		return b.connect(place)
	}
	if err := b.accept(reply); err != nil {
		reply.Body.Close()
		return fmt.Errorf("%s: %w", reply.place(), err)
	}
	b.body, b.place, b.at, b.gained = reply.Body, place, reply.place(), 0
	b.pace, b.storage = pace{}, nil
	if reply.foreign {
		b.storage = reply.url
	}
	b.single = b.single || reply.Header.Get("Accept-Ranges") == "none"
	if place.mirror {
		b.mirrors = append(b.mirrors, place)
	}
	return nil
}

func (b *Blob) resource() resource {
	return resource{path: []string{"blobs", b.want.Digest.String()}, missing: missingBlob}
}

// from is where a place is asked to begin.
func (b *Blob) from(place endpoint) int64 {
	if b.noRange[place.base.Host] {
		return 0
	}
	return b.next
}

// accept checks that an answer is what was asked for, and brings its body to the first
// byte that is missing.
func (b *Blob) accept(r *reply) error {
	length, from := r.ContentLength, b.next
	if r.StatusCode != http.StatusPartialContent {
		from = 0
	} else if err := checkRange(r.Header.Get("Content-Range"), b.next, b.want.Size, b.want.Size); err != nil {
		return err
	}
	if length >= 0 && length != b.want.Size-from {
		return fmt.Errorf("%w: it has %d bytes, the manifest says %d", container.ErrInvalid, from+length, b.want.Size)
	}
	if from == b.next {
		return nil
	}
	// No ranges here. What was read once is read once more, which costs; so not often.
	if b.skipped++; b.skipped >= b.client.attempts {
		return fmt.Errorf("%w: it breaks off again and again, and does not go on in the middle of a blob", container.ErrUnavailable)
	}
	_, err := io.CopyN(io.Discard, r.Body, b.next)
	if err == io.EOF {
		err = fmt.Errorf("%w: the answer ended early", container.ErrUnavailable)
	}
	return err
}

func (b *Blob) Read(p []byte) (int, error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	case b.keptLeft > 0:
		return b.readKept(p)
	case b.left == 0:
		b.err = b.finish()
		return 0, b.err
	}
	most := min(int64(len(p)), b.left)
	if b.ahead != nil {
		most = min(most, b.ahead.from-b.next)
	}
	began := time.Now()
	n, err := b.body.Read(p[:most])
	b.hurry(n, began)
	b.take(p[:n])
	b.next += int64(n)
	b.gained += int64(n)
	if b.ahead != nil && b.next == b.ahead.from && b.switchOver() {
		return n, nil
	}
	// With nothing left the next Read decides, whatever err is.
	if err != nil && b.left > 0 {
		b.err = b.resume(b.broken(err))
	}
	return n, b.err
}

// hurry begins to read ahead, once, when a connection proves slow.
func (b *Blob) hurry(n int, began time.Time) {
	if b.single {
		return
	}
	limits := b.client.ahead
	slow, perSecond := b.pace.add(n, began, limits)
	if !slow || b.left < limits.worth {
		return
	}
	from := b.next + int64(n) + max(2*limits.piece, int64(perSecond*limits.lead.Seconds()))
	if from < b.want.Size {
		b.ahead = newAhead(b, from)
		b.single = b.ahead != nil
	}
}

// switchOver goes on with what was read ahead, if it can be had.
func (b *Blob) switchOver() bool {
	a := b.ahead
	b.ahead = nil
	if !a.takeOver() {
		a.Close()
		return false
	}
	b.body.Close()
	b.body = a
	return true
}

func (b *Blob) take(p []byte) {
	b.hash.Write(p)
	b.left -= int64(len(p))
}

func (b *Blob) readKept(p []byte) (int, error) {
	n, err := b.kept.Read(p[:min(int64(len(p)), b.keptLeft)])
	b.take(p[:n])
	b.keptLeft -= int64(n)
	if err != nil && b.keptLeft > 0 {
		b.err = fmt.Errorf("%s: read what was kept of it: %w: %w", b.what(), container.ErrUnavailable, err)
	}
	return n, b.err
}

// resume goes on after the transfer broke, or returns why it does not.
func (b *Blob) resume(why error) error {
	for {
		b.body.Close()
		if b.gained >= enough {
			b.failures = 0
		} else {
			b.failures++
		}
		if !temporary(why) || b.failures >= b.client.attempts || b.ctx.Err() != nil {
			return why
		}
		places := b.places
		if b.failures > 0 {
			places = after(places, b.place)
			if len(places) == 1 || b.failures%len(places) == 0 {
				if err := b.client.pause(b.ctx, b.failures, why); err != nil {
					return fmt.Errorf("%s: %w", b.what(), err)
				}
			}
		}
		b.gained = 0
		err := round(b.ctx, places, b.connect)
		if err == nil {
			return nil
		}
		why = fmt.Errorf("%s: after %d of %d bytes: %w", b.what(), b.next, b.want.Size, err)
	}
}

// after returns the places in a circle, the one behind e first.
func after(places []endpoint, e endpoint) []endpoint {
	for i, place := range places {
		if place.base == e.base {
			return append(append([]endpoint{}, places[i+1:]...), places[:i+1]...)
		}
	}
	return places
}

// finish looks for a byte too many, then at the digest.
func (b *Blob) finish() error {
	var extra [1]byte
	if n, _ := io.ReadFull(b.body, extra[:]); n > 0 {
		return fmt.Errorf("%s: %s: %w: it goes on after its %d bytes", b.what(), b.at, container.ErrInvalid, b.want.Size)
	}
	if got := image.DigestOfSum([sha256.Size]byte(b.hash.Sum(nil))); got != b.want.Digest {
		return fmt.Errorf("%s: %s: %w: expected bytes with the digest %s, got %d bytes with %s",
			b.what(), b.at, container.ErrInvalid, b.want.Digest, b.want.Size, got)
	}
	return io.EOF
}

func (b *Blob) broken(err error) error {
	if err == io.EOF {
		err = fmt.Errorf("%w: the answer ended early", container.ErrUnavailable)
	}
	return fmt.Errorf("%s: %s: %w, after %d of %d bytes", b.what(), b.at, err, b.next, b.want.Size)
}

func (b *Blob) what() string { return fmt.Sprintf("fetch blob %s of %s", b.want.Digest, b.name) }

// Close gives the connection back. It may be called at any time but during a Read.
func (b *Blob) Close() error {
	if b.ahead != nil {
		b.ahead.Close()
	}
	return b.body.Close()
}

// Distrust says that what was read is not the blob. If a mirror had part in it, it is not
// asked for this blob again, and the answer is true: another attempt makes sense.
func (b *Blob) Distrust() bool {
	for _, e := range b.mirrors {
		b.client.distrusted.add(e, b.want.Digest)
	}
	return len(b.mirrors) > 0
}

// distrusted are the blobs that mirrors have wrong.
type distrusted struct {
	mu  sync.Mutex
	all map[string]bool
}

func distrustKey(e endpoint, blob image.Digest) string { return e.base.Host + " " + blob.String() }

func (d *distrusted) add(e endpoint, blob image.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil || len(d.all) >= maxSessions {
		d.all = make(map[string]bool)
	}
	d.all[distrustKey(e, blob)] = true
}

// without leaves out the mirrors that have the blob wrong.
func (d *distrusted) without(places []endpoint, blob image.Digest) (trusted []endpoint) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range places {
		if !e.mirror || !d.all[distrustKey(e, blob)] {
			trusted = append(trusted, e)
		}
	}
	return trusted
}

// checkRange reads Content-Range (RFC 9110, section 14.4): it has to say that the bytes
// up to end of the blob follow.
func checkRange(field string, from, end, size int64) error {
	first, last, total, err := parseContentRange(field)
	if err == nil && (first != from || last != end-1 || total >= 0 && total != size) {
		err = errors.New("it is another range")
	}
	if err != nil {
		return fmt.Errorf("%w: the answer to a request for the bytes from %d to %d of %d has the Content-Range %.100q: %w",
			container.ErrInvalid, from, end, size, field, err)
	}
	return nil
}
