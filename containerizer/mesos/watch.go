//go:build linux

package mesos

import (
	"context"
	"errors"
	"sync"

	"berth/container"
	"berth/isolator"
)

// watch collects what the watching isolators of one container report. The zero pointer
// is a watch that was never started.
type watch struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu         sync.Mutex
	found      bool   // a limitation or a failure is there
	first      func() // to be called then
	limitation *container.Limitation
	err        error
}

// startWatch runs until end.
func startWatch(isolators []isolator.Isolator, id container.ID) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{cancel: cancel}
	for _, i := range isolators {
		if watcher, ok := i.(isolator.Watcher); ok {
			w.done.Go(func() { w.take(watcher.Watch(ctx, id)) })
		}
	}
	return w
}

// take keeps the first limitation and every failure.
func (w *watch) take(limitation *container.Limitation, err error) {
	if limitation == nil && err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.found && w.first != nil {
		go w.first() // which ends
	}
	w.found = true
	if w.limitation == nil {
		w.limitation = limitation
	}
	w.err = errors.Join(w.err, err)
}

// whenFound has a function called once that does not take for ever, as soon as a limitation or
// a failure is there. Nobody waits for that meanwhile: it would be memory for each container.
func (w *watch) whenFound(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first = do; w.found {
		go do()
	}
}

// end stops the watch and returns what it has found. The cgroup is still to be there.
func (w *watch) end() (*container.Limitation, error) {
	if w == nil {
		return nil, nil
	}
	w.cancel()
	w.done.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limitation, w.err
}
