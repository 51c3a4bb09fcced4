package fetch

import (
	"context"
	"sync"
)

// pulls are those under way in this process: one at a time of an image, so that of
// many who want the same one, the first fetches it and the others find it.
type pulls struct {
	mu       sync.Mutex
	underWay map[Key]chan struct{} // closed at the end
}

// begin waits until nobody else pulls the image. The caller calls end after its own
// pull.
func (p *pulls) begin(ctx context.Context, k Key) (end func(), err error) {
	for {
		other, end := p.tryBegin(k)
		if other == nil {
			return end, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (p *pulls) tryBegin(k Key) (other chan struct{}, end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other, ok := p.underWay[k]; ok {
		return other, nil
	}
	if p.underWay == nil {
		p.underWay = make(map[Key]chan struct{})
	}
	own := make(chan struct{})
	p.underWay[k] = own
	return nil, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.underWay, k)
		close(own)
	}
}
