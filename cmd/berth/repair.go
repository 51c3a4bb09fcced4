//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"berth/engine"
	"berth/provisioner"
)

func repairCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Make again what is broken in the store, of its tar or by fetching it, and nothing else; exit 1 when something remains",
		Args:  cobra.NoArgs,
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		progress := fetching(config)
		return withImages(cmd, config, func(ctx context.Context, images *engine.Images) error {
			repaired, err := images.Provisioner.Repair(ctx)
			progress.done()
			if printErr := printResult(asJSON, repaired, func() error { return printRepaired(repaired) }); printErr != nil || ctx.Err() != nil {
				return errors.Join(err, printErr)
			}
			if err != nil {
				warn(err)
				return exitStatus(1)
			}
			return nil
		})
	}
	return cmd
}

func printRepaired(r *provisioner.Repaired) error {
	for _, id := range r.Made {
		fmt.Printf("made layer %s again of its tar\n", id)
	}
	for _, id := range r.Fetched {
		fmt.Printf("fetched layer %s\n", id)
	}
	for _, name := range r.Images {
		fmt.Printf("made the record of image %s again\n", name)
	}
	for _, id := range r.Removed {
		fmt.Printf("removed layer %s, which no image has\n", id)
	}
	printBroken(r.Remained)
	_, err := fmt.Printf("%d layers made again, %d fetched, %d still broken\n", len(r.Made), len(r.Fetched), len(r.Remained))
	return err
}
