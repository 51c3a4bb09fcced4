package agent

import (
	"context"
	"log/slog"
	"time"

	v1 "berth/api/v1"
	"berth/provisioner"
)

// ImageGC removes images when the file system that holds them fills up.
type ImageGC struct {
	Config *v1.ImageGcConfig // as of ParseImageGC
	// Used returns the share of the file system that is used, from 0 to 1.
	Used func() (float64, error)
	// Prune is that of the provisioner.
	Prune func(context.Context, provisioner.PruneOptions) (provisioner.Pruned, error)
	Log   *slog.Logger

	// patience is how many looks at the disk are let pass after a Prune that found
	// nothing to remove, and left how many of these are to come.
	patience, left int
}

// mostPatience bounds how much later an image is removed that has become free to go.
const mostPatience = 16

// Run looks at the file system once in an interval, the first time one interval after
// the start, and removes what it may when too much is used. It ends with ctx.
func (g *ImageGC) Run(ctx context.Context) {
	interval := time.Duration(g.Config.GetImageDiskWatchInterval().GetNanoseconds())
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
			g.look(ctx)
		}
	}
}

// look is one look at the file system.
func (g *ImageGC) look(ctx context.Context) {
	used, err := g.Used()
	log := g.Log.With(slog.Float64("used", used), slog.Float64("image_disk_headroom", g.Config.GetImageDiskHeadroom()))
	switch {
	case err != nil:
		g.Log.Error("image GC: look at the file system of the images", slog.Any("error", err))
	case g.Config.GetImageDiskHeadroom()+used <= 1:
		if g.patience > 0 {
			log.Info("image GC: enough of the disk is free again")
		}
		g.patience, g.left = 0, 0
	case g.left > 0:
		g.left--
	default:
		g.prune(ctx, log)
	}
}

func (g *ImageGC) prune(ctx context.Context, log *slog.Logger) {
	pruned, err := g.Prune(ctx, provisioner.PruneOptions{Excluded: g.Config.GetExcludedImages()})
	if err != nil && ctx.Err() != nil {
		return // the agent ends
	}
	if !pruned.Nothing() {
		var names []string
		for _, rec := range pruned.Images {
			names = append(names, rec.Reference)
		}
		log.Info("image GC: images removed", slog.Any("images", names), slog.Int("layers", len(pruned.Layers)), slog.Int("partials", len(pruned.Partials)), slog.Int64("bytes", pruned.Bytes))
		g.patience = 0
	} else if err == nil {
		// Trying again at every look would be in vain as often, and saying so noise.
		if g.patience == 0 {
			log.Warn("image GC: the disk fills up, and there is no image to remove: containers use them all, or they are excluded")
		}
		g.patience = min(max(1, 2*g.patience), mostPatience)
		g.left = g.patience
	}
	if err != nil {
		log.Error("image GC", slog.Any("error", err))
	}
}
