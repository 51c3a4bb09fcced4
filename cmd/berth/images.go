//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"berth/engine"
	"berth/provisioner"
)

func imagesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List the images in the store, and what they cost",
		Long: `List the images in the store, and what they cost: SIZE is that of the uncompressed
layers; of the disk, UNIQUE goes with the image, and SHARED others need too.`,
		Args: cobra.NoArgs,
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withImages(cmd, config, func(ctx context.Context, images *engine.Images) error {
			usage, err := images.Provisioner.Usage(ctx)
			if usage == nil {
				return err
			}
			// Also when there are records that cannot be read.
			return errors.Join(printResult(asJSON, usage, func() error { return printImages(usage) }), err)
		})
	}
	return cmd
}

func printImages(images []provisioner.ImageUsage) error {
	table := newTable("IMAGE\tPLATFORM\tID\tLAYERS\tSIZE\tUNIQUE\tSHARED\tPULLED")
	for _, i := range images {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", i.Reference, orDash(i.Platform), short(i.ID), len(i.Layers),
			humanBytes(i.Size), humanBytes(i.Unique), humanBytes(i.Shared), i.Pulled.Local().Format(time.DateTime))
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
