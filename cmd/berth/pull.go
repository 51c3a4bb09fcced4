//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"berth/engine"
)

func pullCommand() *cobra.Command {
	var platform, policy string
	var asJSON, explain bool
	cmd := &cobra.Command{
		Use:   "pull IMAGE",
		Short: "Get an image into the store and print its id",
		Long:  "Get an image into the store and print its id.\n\n" + imageForms,
		Args:  cobra.ExactArgs(1),
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().StringVar(&platform, "platform", "", "OS/ARCHITECTURE[/VARIANT] of the image (default: the host's)")
	cmd.Flags().StringVar(&policy, "pull", pullMissing, "ask the registry always, when the image is missing, or never")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the image's record as JSON")
	cmd.Flags().BoolVar(&explain, "explain", false, "print where the time of the pull went, for each layer")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		img, err := engine.ParseImage(args[0], platform)
		if err != nil {
			return err
		}
		progress := fetching(config)
		return withImages(cmd, config, func(ctx context.Context, images *engine.Images) error {
			if err := images.Layers.Recover(ctx); err != nil {
				return err
			}
			if err := applyPullPolicy(ctx, images, img, policy); err != nil {
				return err
			}
			record, report, err := images.Pull(ctx, img)
			progress.done()
			if err != nil {
				return err
			}
			if report != nil && report.Warning != "" {
				warn(fmt.Errorf("image %s: %s", record.Reference, report.Warning))
			}
			if explain {
				result := explained{record, report}
				return printResult(asJSON, result, result.print)
			}
			return printResult(asJSON, record, func() error { return printLine(record.ID.String()) })
		})
	}
	return cmd
}
