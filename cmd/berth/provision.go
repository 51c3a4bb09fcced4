//go:build linux

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"berth/container"
	"berth/engine"
)

func provisionCommand() *cobra.Command {
	var name, platform, policy string
	cmd := &cobra.Command{
		Use:   "provision --id ID IMAGE",
		Short: "Make a root filesystem of an image and print where it is, as JSON",
		Long: `Make a root filesystem of an image and print where it is, as JSON. It stays until
"berth destroy ID" or a reboot.`,
		Args: cobra.ExactArgs(1),
	}
	config := configured(cmd, storeFlags, launchFlags)
	cmd.Flags().StringVar(&name, "id", "", "what to destroy it by")
	cmd.Flags().StringVar(&platform, "platform", "", "OS/ARCHITECTURE[/VARIANT] of the image (default: the host's)")
	cmd.Flags().StringVar(&policy, "pull", pullMissing, "ask the registry always, when the image is missing, or never")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := container.ParseID(name)
		if err != nil {
			return fmt.Errorf("--id: %w", err)
		}
		img, err := engine.ParseImage(args[0], platform)
		if err != nil {
			return err
		}
		progress := fetching(config)
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return withEngine(ctx, config, func(e *engine.Engine) error {
			if err := applyPullPolicy(ctx, e.Images, img, policy); err != nil {
				return err
			}
			rootfs, err := e.Provision(ctx, id, img)
			progress.done()
			if err != nil {
				return err
			}
			return printResult(true, rootfs, nil)
		})
	}
	return cmd
}
