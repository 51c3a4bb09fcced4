package agent

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"berth/agent/operator"
	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

// observe passes on what has happened to a container: one line in the log, one event, and
// the end of one that is to go by itself.
func (a *agent) observe(e containerizer.Event) {
	event := &v1.Event{Type: proto.String("container." + string(e.Kind)), ContainerId: containerizer.IDMessage(e.ID)}
	log := a.Log.With(slog.String("container", e.ID.String()))
	if e.Err != nil {
		event.Message = proto.String(e.Err.Error())
		log = log.With(slog.Any("error", e.Err))
	}
	if e.Termination != nil {
		event.Termination = operator.EndOf(*e.Termination)
		log = log.With(slog.Int("exit_code", e.Termination.ExitCode()))
	}
	log.Info("container " + string(e.Kind))
	a.events.Publish(event)
	if e.Kind == containerizer.Ended {
		a.removals.Go(func() { a.removeIfAsked(e.ID) })
	}
}

// removeIfAsked removes an ended container whose request says so. Those who wait for it
// are told of its end all the same.
func (a *agent) removeIfAsked(id container.ID) {
	ctx := context.Background()
	found, err := a.engine.Inspect(ctx, id)
	if err != nil || !found.Config.GetAutoRemove() {
		return
	}
	if _, err := a.engine.Wait(ctx, id); err != nil {
		return // something is left of it; an operator is to look
	}
	if err := a.engine.Remove(ctx, id); err != nil {
		a.Log.Error("remove an ended container", slog.String("container", id.String()), slog.Any("error", err))
	}
}

// retain removes ended root containers when they are old enough, until ctx ends.
func (a *agent) retain(ctx context.Context) {
	for {
		now := a.settings.Load()
		select {
		case <-ctx.Done():
			return
		case <-now.replaced:
			continue
		case <-time.After(min(max(now.CompletedRetention/10, time.Second), time.Minute)):
		}
		for _, id := range a.engine.Containers() {
			if _, nested := id.Parent(); nested {
				continue // it goes with its root
			}
			found, err := a.engine.Inspect(ctx, id)
			if err != nil || found.Ended.IsZero() || time.Since(found.Ended) < now.CompletedRetention {
				continue
			}
			if err := a.engine.Remove(ctx, id); err != nil {
				a.Log.Warn("remove an old result", slog.String("container", id.String()), slog.Any("error", err))
			}
		}
	}
}
