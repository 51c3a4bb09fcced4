package provisioner

import (
	"context"
	"fmt"

	"berth/container"
)

// What protects what:
//
//   - Within this process, a claim keeps two from working on one container at a time.
//   - Between processes, whoever has the container works on it: package containerizer
//     admits an id once, and lets nobody else destroy or recover it as long as its
//     keeper lives. A container's nested ones belong to the same process.
//   - Layers are protected from the sweeps of all processes by the record of the container
//     (inventory.go), and until it names them by a lease, or as no sweep decides meanwhile.
//   - Records are replaced by a rename, so that whoever reads one meanwhile sees a whole one.
//     A container's first one may be seen in part, which is as if it were not there yet.

// claim is what goes on for one container: a Provision, which has the container
// alone, or a Destroy, which has also all that is nested in it.
type claim struct {
	done   chan struct{}
	cancel context.CancelCauseFunc // of a Provision; nobody interrupts a Destroy
}

func (c *claim) destroys() bool { return c.cancel == nil }

// errDestroyed ends a Provision whose container is being destroyed.
var errDestroyed = fmt.Errorf("%w: the container is being destroyed", container.ErrFailedPrecondition)

// begin claims the container for a Provision; end gives it back. The context ends when a
// Destroy wants the container.
func (p *Provisioner) begin(ctx context.Context, id container.ID) (_ context.Context, end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, c := range p.busy {
		switch {
		case c.destroys() && within(id, other):
			return nil, nil, errDestroyed
		case other == id:
			return nil, nil, fmt.Errorf("%w: another provisioning is under way", container.ErrFailedPrecondition)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	give := p.take(id, &claim{cancel: cancel})
	return ctx, func() { give(); cancel(nil) }, nil
}

// takeOver claims the container and all that is nested in it for a Destroy, also what
// has no directory yet. It interrupts every Provision there, and waits for those and
// for another Destroy.
func (p *Provisioner) takeOver(ctx context.Context, id container.ID) (end func(), err error) {
	for {
		end, inTheWay := p.tryTakeOver(id)
		if inTheWay == nil {
			return end, nil
		}
		select {
		case <-inTheWay.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (p *Provisioner) tryTakeOver(id container.ID) (end func(), inTheWay *claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, c := range p.busy {
		switch {
		case c.destroys() && (within(id, other) || within(other, id)):
			inTheWay = c
		case !c.destroys() && within(other, id):
			c.cancel(errDestroyed)
			inTheWay = c
		}
	}
	if inTheWay != nil {
		return nil, inTheWay
	}
	return p.take(id, &claim{}), nil
}

// take enters a claim and returns what removes it. The caller holds the mutex.
func (p *Provisioner) take(id container.ID, c *claim) (give func()) {
	c.done = make(chan struct{})
	p.busy[id] = c
	return func() {
		p.mu.Lock()
		delete(p.busy, id)
		p.mu.Unlock()
		close(c.done)
	}
}

// within reports whether id is the container ancestor or nested in it.
func within(id, ancestor container.ID) bool {
	for nested := true; nested; id, nested = id.Parent() {
		if id == ancestor {
			return true
		}
	}
	return false
}
