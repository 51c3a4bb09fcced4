//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"berth/engine"
	"berth/layer"
	"berth/provisioner"
)

func pruneCommand() *cobra.Command {
	var excluded []string
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove every image that no container uses, and the layers that nothing else needs",
		Args:  cobra.NoArgs,
	}
	config := configured(cmd, storeFlags, launchFlags)
	cmd.Flags().StringArrayVar(&excluded, "exclude", nil, "keep this `IMAGE`, for every platform; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry_run", false, "remove nothing, tell what would be removed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		images, err := imagesOf(excluded)
		if err != nil {
			return fmt.Errorf("--exclude: %w", err)
		}
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return withEngine(ctx, config, func(e *engine.Engine) error {
			pruned, err := e.Images.Provisioner.Prune(ctx, provisioner.PruneOptions{Excluded: images, DryRun: dryRun})
			if err != nil && pruned.Nothing() {
				return err
			}
			// What was removed before an error is gone.
			return errors.Join(printResult(asJSON, pruned, func() error { return printPruned(pruned, dryRun) }), err)
		})
	}
	return cmd
}

// printPruned prints what a Prune has removed, or would.
func printPruned(p provisioner.Pruned, dryRun bool) error {
	removed, freed := "removed", "freed"
	if dryRun {
		removed, freed = "would remove", "would free"
	}
	for _, rec := range p.Images {
		fmt.Printf("%s image %s\n", removed, recordName(rec))
	}
	if n := len(p.Partials); n > 0 {
		fmt.Printf("%s what was kept of %d interrupted downloads\n", removed, n)
	}
	return printSwept(removed, freed, layer.Swept{Layers: p.Layers, Bytes: p.Bytes})
}
