package agent

import (
	"context"
	"log/slog"
	"maps"
	"runtime"
	"slices"

	"google.golang.org/protobuf/proto"

	"berth/agent/operator"
	v1 "berth/api/v1"
	"berth/engine"
	"berth/provisioner"
)

// answers are what the operator API answers from.
func (a *agent) answers() operator.Options {
	return operator.Options{
		Containers: a.engine, Images: (*images)(a), Files: (*files)(a), Sandbox: a.engine.Layout.Sandbox, Counted: a.engine.Counted(),
		Flags: a.flags, Version: &v1.VersionInfo{Version: proto.String(a.Version)}, Metrics: a.metrics, Counts: a.engine.Counts, Abilities: a.abilities,
		Level: a.Level, Events: &a.events, Log: a.Log,
	}
}

// metrics are those of the engine, and of this process.
func (a *agent) metrics() map[string]float64 {
	values := a.engine.Metrics()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	values["agent/goroutines"] = float64(runtime.NumGoroutine())
	values["agent/heap_bytes"] = float64(memory.HeapAlloc)
	values["agent/containers"] = float64(len(a.engine.Containers()))
	return values
}

// abilities finds out anew what the host can do.
func (a *agent) abilities(ctx context.Context) (*v1.Response_GetAbilities, error) {
	info, err := engine.Inspect(ctx, a.Engine)
	if err != nil {
		return nil, err
	}
	return &v1.Response_GetAbilities{Isolators: abilities(info.Isolators), Backends: abilities(info.Backends)}, nil
}

func abilities(all []engine.Ability) (list []*v1.Response_GetAbilities_Ability) {
	for _, one := range all {
		m := &v1.Response_GetAbilities_Ability{Name: proto.String(one.Name), Works: proto.Bool(one.Works), Chosen: proto.Bool(one.Default)}
		if one.Reason != "" {
			m.Reason = proto.String(one.Reason)
		}
		if one.Needs != "" {
			m.Needs = proto.String(one.Needs)
		}
		list = append(list, m)
	}
	return list
}

// images implements operator.Images.
type images agent

// List implements operator.Images.
func (i *images) List(ctx context.Context) (*v1.Response_GetImages, error) {
	usage, err := i.engine.Images.Provisioner.Usage(ctx)
	if usage == nil {
		return nil, err
	}
	users := make(map[string]uint32)
	for _, img := range usage {
		for _, layer := range img.Layers {
			users[string(layer)]++
		}
	}
	list := &v1.Response_GetImages{}
	for _, img := range usage {
		one := &v1.Response_GetImages_Image{
			Reference: proto.String(img.Reference), Id: proto.String(string(img.ID)), Size: proto.Uint64(uint64(img.Size)),
			OwnBytes: proto.Uint64(uint64(img.Unique)), SharedBytes: proto.Uint64(uint64(img.Shared)),
			Pulled: &v1.TimeInfo{Nanoseconds: proto.Int64(img.Pulled.UnixNano())},
		}
		if img.Platform != "" {
			one.Platform = proto.String(img.Platform)
		}
		for _, layer := range img.Layers {
			one.Layers = append(one.Layers, &v1.Response_GetImages_Layer{DiffId: proto.String(string(layer)), Images: proto.Uint32(users[string(layer)])})
		}
		list.Images = append(list.Images, one)
	}
	return list, nil
}

// Pull implements operator.Images.
func (i *images) Pull(ctx context.Context, img *v1.Image) (*v1.Response_PullImage, error) {
	rec, _, err := i.engine.Pull(ctx, img)
	if err != nil {
		return nil, err
	}
	i.events.Publish(&v1.Event{Type: proto.String("image.pulled"), Image: proto.String(rec.Reference)})
	return &v1.Response_PullImage{Reference: proto.String(rec.Reference), Id: proto.String(string(rec.ID))}, nil
}

// Prune implements operator.Images.
func (i *images) Prune(ctx context.Context, excluded []*v1.Image) error {
	_, err := i.prune(ctx, provisioner.PruneOptions{Excluded: slices.Concat(excluded, i.settings.Load().ImageGC.GetExcludedImages())})
	return err
}

func (i *images) prune(ctx context.Context, o provisioner.PruneOptions) (provisioner.Pruned, error) {
	// The containers of dead berth processes use no image.
	if err := i.engine.Recover(ctx); err != nil {
		i.Log.Warn("recover", slog.Any("error", err))
	}
	pruned, err := i.engine.Images.Provisioner.Prune(ctx, o)
	for _, rec := range pruned.Images {
		i.events.Publish(&v1.Event{Type: proto.String("image.removed"), Image: proto.String(rec.Reference)})
	}
	return pruned, err
}

// secretFlags have, or may have, credentials in their values.
var secretFlags = []string{"docker_config", "default_container_info"}

// flags are those in force for whoever asks, without what is secret.
func (a *agent) flags() map[string]string {
	values := maps.Clone(a.settings.Load().Flags)
	for _, name := range secretFlags {
		if values[name] != "" {
			values[name] = "(redacted)"
		}
	}
	return values
}
