package operator

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
)

func (s *Server) getHealth(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_HEALTH.Enum(), GetHealth: &v1.Response_GetHealth{Healthy: proto.Bool(true)}}}, nil
}

func (s *Server) getFlags(context.Context, *call) (*answered, error) {
	flags := &v1.Response_GetFlags{}
	values := s.Flags()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		flags.Flags = append(flags.Flags, &v1.Flag{Name: proto.String(name), Value: proto.String(values[name])})
	}
	return &answered{Response: &v1.Response{Type: v1.Response_GET_FLAGS.Enum(), GetFlags: flags}}, nil
}

func (s *Server) getVersion(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_VERSION.Enum(), GetVersion: &v1.Response_GetVersion{VersionInfo: s.Version}}}, nil
}

// getMetrics measures at once: no metric takes time.
func (s *Server) getMetrics(context.Context, *call) (*answered, error) {
	metrics := &v1.Response_GetMetrics{}
	values := s.Metrics()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		metrics.Metrics = append(metrics.Metrics, &v1.Metric{Name: proto.String(name), Value: proto.Float64(values[name])})
	}
	return &answered{Response: &v1.Response{Type: v1.Response_GET_METRICS.Enum(), GetMetrics: metrics}}, nil
}

func (s *Server) getAbilities(ctx context.Context, _ *call) (*answered, error) {
	abilities, err := s.Abilities(ctx)
	return &answered{Response: &v1.Response{Type: v1.Response_GET_ABILITIES.Enum(), GetAbilities: abilities}}, err
}

func (s *Server) getLoggingLevel(context.Context, *call) (*answered, error) {
	level := levelNumber(s.Level.Level())
	return &answered{Response: &v1.Response{Type: v1.Response_GET_LOGGING_LEVEL.Enum(), GetLoggingLevel: &v1.Response_GetLoggingLevel{Level: proto.Uint32(level)}}}, nil
}

func (s *Server) setLoggingLevel(_ context.Context, c *call) (*answered, error) {
	m := c.GetSetLoggingLevel()
	s.level.set(s.Level, levelOf(m.GetLevel()), time.Duration(m.GetDuration().GetNanoseconds()))
	return &answered{}, nil
}

// levelNumber is a level as Mesos counts: 0 is what everybody wants to know.
func levelNumber(l slog.Level) uint32 {
	return uint32(max(0, slog.LevelInfo-l) / (slog.LevelInfo - slog.LevelDebug))
}

// levelOf is the reverse. berth has two levels that say more than a warning.
func levelOf(number uint32) slog.Level {
	if number > 0 {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// SetLevel sets the level of the log for good. One that a call has set for a while stays so
// long.
func (s *Server) SetLevel(level slog.Level) { s.level.settle(s.Level, level) }

// levelReset puts a level back.
type levelReset struct {
	mu    sync.Mutex
	timer *time.Timer // nil: the level is as it is to be
	first slog.Level
}

func (r *levelReset) settle(level *slog.LevelVar, to slog.Level) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first = to
	if r.timer == nil {
		level.Set(to)
	}
}

// set sets a level for some time. The last call counts.
func (r *levelReset) set(level *slog.LevelVar, to slog.Level, duration time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.first = level.Level()
	} else {
		r.timer.Stop()
	}
	level.Set(to)
	var timer *time.Timer
	timer = time.AfterFunc(duration, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.timer == timer {
			r.timer = nil
			level.Set(r.first)
		}
	})
	r.timer = timer
}

// berth knows no frameworks: the lists of these are empty, and well-formed.

func (s *Server) getState(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_STATE.Enum(), GetState: &v1.Response_GetState{
		GetTasks: &v1.Response_GetTasks{}, GetExecutors: &v1.Response_GetExecutors{}, GetFrameworks: &v1.Response_GetFrameworks{},
	}}}, nil
}

func (s *Server) getFrameworks(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_FRAMEWORKS.Enum(), GetFrameworks: &v1.Response_GetFrameworks{}}}, nil
}

func (s *Server) getExecutors(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_EXECUTORS.Enum(), GetExecutors: &v1.Response_GetExecutors{}}}, nil
}

func (s *Server) getTasks(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_TASKS.Enum(), GetTasks: &v1.Response_GetTasks{}}}, nil
}

func (s *Server) getAgent(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_AGENT.Enum(), GetAgent: &v1.Response_GetAgent{}}}, nil
}

func (s *Server) getResourceProviders(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_RESOURCE_PROVIDERS.Enum(), GetResourceProviders: &v1.Response_GetResourceProviders{}}}, nil
}

func (s *Server) getOperations(context.Context, *call) (*answered, error) {
	return &answered{Response: &v1.Response{Type: v1.Response_GET_OPERATIONS.Enum(), GetOperations: &v1.Response_GetOperations{}}}, nil
}

func (s *Server) pruneImages(ctx context.Context, c *call) (*answered, error) {
	return &answered{}, s.Images.Prune(ctx, c.GetPruneImages().GetExcludedImages())
}

func (s *Server) getImages(ctx context.Context, _ *call) (*answered, error) {
	images, err := s.Images.List(ctx)
	return &answered{Response: &v1.Response{Type: v1.Response_GET_IMAGES.Enum(), GetImages: images}}, err
}

func (s *Server) pullImage(ctx context.Context, c *call) (*answered, error) {
	pulled, err := s.Images.Pull(ctx, c.GetPullImage().GetImage())
	return &answered{Response: &v1.Response{Type: v1.Response_PULL_IMAGE.Enum(), PullImage: pulled}}, err
}
