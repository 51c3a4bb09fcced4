package operator

import (
	"cmp"
	"context"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/containerizer"
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

// visible tells which events a subject may see: those of containers of the users that it may
// see the containers of.
type visible struct {
	*Server
	subject Subject
	// users are those of containers that events spoke of: of a removed one nobody else knows.
	users map[string]string
}

func (v *visible) sees(ctx context.Context, event *v1.Event) bool {
	if v.subject.Principal == "" {
		return true
	}
	if event.GetContainerId() == nil {
		return v.subject.may(viewImages, false, "") == nil
	}
	id, err := idOf(event.GetContainerId())
	if err != nil {
		return false
	}
	if found, err := v.Containers.Inspect(ctx, id); err == nil {
		v.users[id.String()] = cmp.Or(found.Config.GetUser(), rootUser)
	}
	user := cmp.Or(v.users[id.String()], rootUser)
	if event.GetType() == "container."+string(containerizer.Removed) {
		delete(v.users, id.String())
	}
	_, nested := id.Parent()
	return v.subject.may(viewContainers, nested, user) == nil
}

// subscribeEvents streams what happens from now on.
func (s *Server) subscribeEvents(out *stream, r *http.Request, c *call) error {
	to := &visible{s, c.subject, make(map[string]string)}
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
			if !to.sees(r.Context(), next) {
				continue
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
