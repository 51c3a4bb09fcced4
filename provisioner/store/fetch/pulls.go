package fetch

import (
	"context"
	"crypto/sha256"
	"sync"

	"google.golang.org/protobuf/proto"

	"berth/layer"
	"berth/provisioner/store"
)

// pulls are those under way in this process: one at a time of an image, for all who want
// it with the same credentials.
type pulls struct {
	mu       sync.Mutex
	underWay map[pullKey]*flight
}

type pullKey struct {
	Key
	secret [sha256.Size]byte // the same for the same one; shows nothing of it
}

func pullKeyOf(w wanted) (pullKey, error) {
	k := pullKey{Key: w.Key}
	if w.secret == nil {
		return k, nil
	}
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(w.secret)
	k.secret = sha256.Sum256(bytes)
	return k, err
}

// flight is a pull under way. It ends when it is done, or when none of its callers wants
// it any more.
type flight struct {
	wants  wants
	done   chan struct{} // closed at the end
	cancel context.CancelCauseFunc

	// Guarded by pulls.mu.
	callers int
	left    bool         // by all of them
	img     *store.Image // until one of them takes it
	err     error
}

// wants is what has to be the same for two callers to be content with one pull.
type wants struct {
	cached bool
	form   layer.Form
	// from is the source, if it is not the one of the image's name.
	from *Source
}

// share has work done for the caller and all others who want the same meanwhile. Without an
// error it returns the image, to one of them, or nothing, which means: look again. mine says
// that it was this work, not another of the same image, that has ended.
func (p *pulls) share(ctx context.Context, w wanted, work func(context.Context, wanted) (*store.Image, error)) (img *store.Image, mine bool, err error) {
	k, err := pullKeyOf(w)
	if err != nil {
		return nil, false, err
	}
	f, mine := p.join(ctx, k, w, work)
	select {
	case <-f.done:
		if mine {
			img, err = p.take(f)
		}
		return img, mine, err
	case <-ctx.Done():
		if mine {
			p.leave(f, context.Cause(ctx))
		}
		return nil, mine, context.Cause(ctx)
	}
}

// join makes the caller one of those of a flight, an own one or one that does what it
// wants; if there is another one of the image, that is returned, and false.
func (p *pulls) join(ctx context.Context, k pullKey, w wanted, work func(context.Context, wanted) (*store.Image, error)) (f *flight, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.underWay[k]; f != nil {
		mine := f.wants == w.wants && !f.left
		if mine {
			f.callers++
		}
		return f, mine
	}
	// Not ended by one caller's context, but with what it carries.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f = &flight{wants: w.wants, done: make(chan struct{}), cancel: cancel, callers: 1}
	if p.underWay == nil {
		p.underWay = make(map[pullKey]*flight)
	}
	p.underWay[k] = f
	go func() {
		img, err := work(ctx, w)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.underWay, k)
		f.img, f.err = img, err
		cancel(nil)
		close(f.done)
	}()
	return f, true
}

// take returns what a flight has brought. Only one of its callers gets the image, and the
// lease with it.
func (p *pulls) take(f *flight) (*store.Image, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	img := f.img
	f.img = nil
	return img, f.err
}

// leave takes a caller away from a flight. If it was the last one, the flight ends, and
// has ended when leave returns.
func (p *pulls) leave(f *flight, why error) {
	p.mu.Lock()
	f.callers--
	f.left = f.callers == 0
	last := f.left
	p.mu.Unlock()
	if !last {
		return
	}
	f.cancel(why)
	<-f.done
	if img, _ := p.take(f); img != nil {
		_ = img.Release() // it came too late; what it holds is swept
	}
}
