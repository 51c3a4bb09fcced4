package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifyReady tells systemd, if that has started the agent, that it is ready, and from then
// on that it lives (sd_notify(3), sd_watchdog_enabled(3)).
func (a *agent) notifyReady(ctx context.Context, tasks *sync.WaitGroup) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.Log.Warn("tell systemd that the agent is ready", slog.Any("error", err))
	}
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		a.Log.Warn("ask for the watchdog of systemd", slog.Any("error", err))
	}
	if limit == 0 {
		return
	}
	tasks.Go(func() {
		ticker := time.NewTicker(limit / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				// Who cannot be asked for its containers does not live.
				a.engine.Containers()
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		}
	})
}
