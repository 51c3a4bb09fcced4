package operator

import (
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
)

// Events passes on what happens to whoever has subscribed. The zero value works.
type Events struct {
	mu          sync.Mutex
	subscribers map[chan *v1.Event]struct{}
}

// backlog is how many events a subscriber may be behind. One that is further behind is
// cut off, and has to ask again how things are.
const backlog = 1024

// Publish passes on an event, and waits for nobody. It fills in the time.
func (e *Events) Publish(event *v1.Event) {
	event.Time = timeInfo(time.Now())
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.subscribers {
		select {
		case s <- event:
		default:
			delete(e.subscribers, s)
			close(s)
		}
	}
}

// subscribe returns what comes from now on, until leave is called. The channel is closed
// when the subscriber is too far behind.
func (e *Events) subscribe() (events <-chan *v1.Event, leave func()) {
	s := make(chan *v1.Event, backlog)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.subscribers == nil {
		e.subscribers = make(map[chan *v1.Event]struct{})
	}
	e.subscribers[s] = struct{}{}
	return s, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subscribers, s)
	}
}

// subscribeEvents streams what happens from now on.
func (s *Server) subscribeEvents(out *stream, r *http.Request, _ *call) error {
	events, leave := s.Events.subscribe()
	defer leave()
	out.begin()
	// At once, so that the client knows from when on it misses nothing.
	if out.send(heartbeatEvent()) != nil {
		return nil
	}
	ticker := time.NewTicker(s.Heartbeat)
	defer ticker.Stop()
	for {
		var event *v1.Event
		select {
		case <-r.Context().Done():
			return nil
		case <-ticker.C:
			event = heartbeatEvent()
		case next, ok := <-events:
			if !ok {
				return nil
			}
			event = next
		}
		if out.send(event) != nil {
			return nil
		}
	}
}

func heartbeatEvent() *v1.Event {
	return &v1.Event{Time: timeInfo(time.Now()), Type: proto.String("heartbeat")}
}
