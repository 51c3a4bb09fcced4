package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"berth/container"
)

// aheadLimits say when and how what follows of a blob is fetched ahead of its reader.
type aheadLimits struct {
	// window is over how much of a blob it is seen who waits for whom.
	window int64
	// fast is the bytes per second from which on a connection needs no help.
	fast float64
	// worth is how much has to be left then.
	worth int64
	// lead is how long the connection that there is goes on alone, until the further ones
	// have to bring something.
	lead time.Duration
	// piece is what one request asks for at most, and connections how many do at a time. Memory has
	// one piece more than that: it is read while they fill the others.
	piece       int64
	connections int
}

// defaultAhead is for servers, and long ways, that give a single connection little. Where
// something else is slower than the network nothing changes: the reader has to have waited
// for most of 32 MiB, which leave the slow start of a connection far behind, and nearly a
// gigabit per second is no case for help, even if its reader (who may decrypt it, beside a
// registry on the same cores) does nothing but wait. A blob under 128 MiB is through before it
// would profit. Pieces of 4 MiB make a request for each cost little beside its transfer, and
// take 16 MiB of memory together, where all of a pull is to have less than 64. Servers limit
// the connections of a client, too: so few of them.
var defaultAhead = aheadLimits{window: 32 << 20, fast: 100e6, worth: 96 << 20, lead: time.Second, piece: 4 << 20, connections: 3}

// pace is how fast a connection brings a blob, and who waits for whom.
type pace struct {
	begin  time.Time
	bytes  int64
	waited time.Duration
}

// add counts a Read. Once the window is full, slow says that the reader did little but wait
// for the connection, which is not a fast one; the next window begins.
func (p *pace) add(n int, began time.Time, limits aheadLimits) (slow bool, perSecond float64) {
	now := time.Now()
	if p.begin.IsZero() {
		p.begin = began
	}
	p.bytes += int64(n)
	p.waited += now.Sub(began)
	if p.bytes < limits.window {
		return false, 0
	}
	took := now.Sub(p.begin)
	waited, perSecond := p.waited, float64(p.bytes)/took.Seconds()
	*p = pace{}
	return waited >= took*3/4 && perSecond < limits.fast, perSecond
}

// ahead fetches a blob from an offset on, in pieces, over a few connections, and is a body
// that brings them in their order. At first it makes one request: if its answer is the range
// that was asked for, it makes more.
//
// It does not insist. A piece that breaks off is gone on with, but whatever else goes wrong
// is an error of the class ErrUnavailable, which ends it: the Blob goes on with one
// connection, and knows how to wait, where else to ask, and what to tell its caller.
type ahead struct {
	client  *Client
	ctx     context.Context // of its requests
	cancel  context.CancelFunc
	place   endpoint
	storage *url.URL // where the place had led to another host, or nil
	wanted  resource
	limits  aheadLimits
	from    int64
	size    int64 // of the blob
	workers sync.WaitGroup

	mu       sync.Mutex
	changed  sync.Cond
	honoured bool // the server has shown that it knows ranges
	failed   bool // nothing more is asked for
	closed   bool
	next     int64    // what is asked for next
	pieces   []*piece // asked for and not read, in their order
	free     [][]byte // buffers
}

// piece is a part of a blob on its way.
type piece struct {
	from         int64
	buffer       []byte // of its size
	filled, read int
	err          error // why it comes no further
}

// newAhead begins to fetch, unless another blob of the client does: this one is not alone then,
// and it is together that they have connections enough, and memory.
func newAhead(b *Blob, from int64) *ahead {
	if !b.client.readsAhead.CompareAndSwap(false, true) {
		return nil
	}
	a := &ahead{
		client: b.client, place: b.place, storage: b.storage, wanted: b.resource(), limits: b.client.ahead,
		from: from, next: from, size: b.want.Size,
	}
	a.place.apart = true // it is to a connection that little is given
	a.ctx, a.cancel = context.WithCancel(b.ctx)
	a.changed.L = &a.mu
	a.workers.Go(a.work)
	return a
}

// takeOver reports whether the body is good for use, from now on instead of a connection.
func (a *ahead) takeOver() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.honoured && !a.failed {
		a.workers.Go(a.work)
		return true
	}
	return false
}

func (a *ahead) work() {
	for p := a.begin(); p != nil; p = a.begin() {
		if err := a.fill(p); err != nil {
			a.mu.Lock()
			p.err, a.failed = err, true
			a.changed.Broadcast()
			a.mu.Unlock()
			return
		}
	}
}

// begin returns the next piece once there is room for it, or nil if there is none to come.
func (a *ahead) begin() *piece {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.failed && !a.closed && a.next < a.size && len(a.pieces) > a.limits.connections {
		a.changed.Wait()
	}
	if a.failed || a.closed || a.next == a.size {
		return nil
	}
	buffer := a.buffer(a.pieceSize())
	p := &piece{from: a.next, buffer: buffer[:min(int64(len(buffer)), a.size-a.next)]}
	a.next += int64(len(p.buffer))
	a.pieces = append(a.pieces, p)
	a.changed.Broadcast()
	return p
}

// buffer returns one of a size, and gives up those of another one.
func (a *ahead) buffer(size int64) []byte {
	for last := len(a.free) - 1; last >= 0; last-- {
		var buffer []byte
		if buffer, a.free = a.free[last], a.free[:last]; int64(len(buffer)) == size {
			return buffer
		}
	}
	return make([]byte, size)
}

// pieceSize is how much one request asks for now: less than usual where there is little memory.
func (a *ahead) pieceSize() int64 {
	const least = 64 << 10
	return min(a.limits.piece, max(least, a.client.aheadMemory()/int64(a.limits.connections+1)))
}

// fill fetches a piece, and goes on where it breaks off.
func (a *ahead) fill(p *piece) error {
	for breaks := 1; ; breaks++ {
		had := p.filled
		body, err := a.open(p.from+int64(p.filled), p.from+int64(len(p.buffer)))
		if err != nil {
			return err
		}
		for err == nil && p.filled < len(p.buffer) {
			var n int
			n, err = body.Read(p.buffer[p.filled:])
			a.mu.Lock()
			p.filled += n
			a.changed.Broadcast()
			a.mu.Unlock()
		}
		if p.filled == len(p.buffer) {
			discard(body)
			return nil
		}
		body.Close()
		if p.filled == had || breaks >= a.client.attempts {
			return err
		}
	}
}

// open asks for a range, and takes nothing else.
func (a *ahead) open(from, end int64) (io.ReadCloser, error) {
	answer, err := a.ask(from, end)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusPartialContent {
		err = fmt.Errorf("the answer to a request for a range is %d", answer.StatusCode)
	} else {
		err = checkRange(answer.Header.Get("Content-Range"), from, end, a.size)
	}
	if err != nil {
		answer.Body.Close()
		return nil, fmt.Errorf("%s: %w", answer.place(), err)
	}
	a.honour()
	return answer.Body, nil
}

// ask first asks where the place led to before: most of these addresses are signed, and
// good for many minutes. When it is not any more, the place makes another.
func (a *ahead) ask(from, end int64) (*reply, error) {
	if a.storage != nil {
		answer, err := a.client.follow(a.ctx, request{by: a.place, method: http.MethodGet, url: a.storage, from: from, end: end}, grant{})
		if err == nil && answer.StatusCode == http.StatusPartialContent {
			return answer, nil
		}
		if err == nil {
			answer.Body.Close()
		}
	}
	wanted := a.wanted
	wanted.from, wanted.end = from, end
	return a.client.get(a.ctx, a.place, wanted)
}

// honour starts the connections that have waited for the first one, except that which the
// Blob has for itself until ahead takes over.
func (a *ahead) honour() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.honoured {
		return
	}
	a.honoured = true
	for range a.limits.connections - 2 {
		a.workers.Go(a.work)
	}
}

// Read implements io.Reader.
func (a *ahead) Read(buffer []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.pieces) == 0 || a.pieces[0].read == a.pieces[0].filled {
		switch {
		case len(a.pieces) == 0 && a.next == a.size:
			return 0, io.EOF
		case a.ctx.Err() != nil:
			return 0, a.ctx.Err()
		case len(a.pieces) > 0 && a.pieces[0].err != nil:
			// In words only: whether it is an error the one connection decides.
			return 0, fmt.Errorf("%w: read ahead: %s", container.ErrUnavailable, a.pieces[0].err)
		}
		a.changed.Wait()
	}
	p := a.pieces[0]
	ready := p.buffer[p.read:p.filled]
	a.mu.Unlock() // what is filled stays as it is
	n := copy(buffer, ready)
	a.mu.Lock()
	if p.read += n; p.read == len(p.buffer) {
		a.release(p)
	}
	return n, nil
}

// release makes room for another piece.
func (a *ahead) release(p *piece) {
	a.pieces = a.pieces[1:]
	if a.next < a.size {
		a.free = append(a.free, p.buffer[:cap(p.buffer)])
	}
	a.changed.Broadcast()
}

// Close ends all requests, and returns when they have ended.
func (a *ahead) Close() error {
	a.mu.Lock()
	again := a.closed
	a.closed = true
	a.changed.Broadcast()
	a.mu.Unlock()
	if again {
		return nil
	}
	a.cancel()
	a.workers.Wait()
	a.pieces, a.free = nil, nil
	a.client.readsAhead.Store(false)
	return nil
}
