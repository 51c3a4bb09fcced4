//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"berth/engine"
	"berth/image"
	"berth/layer"
)

func rmiCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove images, and the layers that nothing else needs",
		Args:  cobra.MinimumNArgs(1),
	}
	config := configured(cmd, storeFlags, launchFlags)
	completeImages(cmd, config)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the removed layers and their bytes as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		images, err := imagesOf(args)
		if err != nil {
			return err
		}
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return withEngine(ctx, config, func(e *engine.Engine) error {
			removed := layer.Swept{Layers: []image.Digest{}}
			var failed error
			for _, img := range images {
				swept, err := e.Images.Provisioner.Remove(ctx, img)
				removed.Layers = append(removed.Layers, swept.Layers...)
				removed.Bytes += swept.Bytes
				failed = errors.Join(failed, err)
			}
			if failed != nil && len(removed.Layers) == 0 {
				return failed
			}
			return errors.Join(printResult(asJSON, removed, func() error { return printSwept("removed", "freed", removed) }), failed)
		})
	}
	return cmd
}

// printSwept prints what a sweep has done, in these words.
func printSwept(removed, freed string, swept layer.Swept) error {
	for _, id := range swept.Layers {
		fmt.Printf("%s layer %s\n", removed, id)
	}
	_, err := fmt.Printf("%s %s\n", freed, humanBytes(swept.Bytes))
	return err
}
