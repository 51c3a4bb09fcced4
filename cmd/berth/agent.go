//go:build linux

package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"berth/agent"
)

func agentCommand() *cobra.Command {
	var imageGC string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Look after the images of this host until SIGTERM",
		Long: `Look after the images of this host until SIGTERM: recover, remove images when the
disk fills up, and tell the metrics on RUNTIME_DIR/agent.sock (GET /metrics/snapshot).
It does not launch containers yet; ` + "`berth run`" + ` and the other commands work beside it.`,
		Args: cobra.NoArgs,
	}
	config := configured(cmd, storeFlags, launchFlags)
	cmd.Flags().StringVar(&imageGC, "image_gc_config", "", "when to remove images: `JSON`, or file:///PATH or /PATH of a file with it (default: never)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options := agent.Options{Engine: *config, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
		if imageGC != "" {
			var err error
			if options.ImageGC, err = agent.ParseImageGC(imageGC); err != nil {
				return err
			}
		}
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return agent.Run(ctx, options)
	}
	return cmd
}
