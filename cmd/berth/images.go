//go:build linux

package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"berth/engine"
	"berth/layer"
	"berth/provisioner/store"
)

// listedImage is a line of `berth images`.
type listedImage struct {
	store.Record
	Size int64 `json:"size"` // of the uncompressed layers
}

func imagesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List the images in the store",
		Args:  cobra.NoArgs,
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		images, err := engine.OpenImages(cmd.Context(), *config)
		if err != nil {
			return err
		}
		records, err := images.List(cmd.Context())
		if err != nil {
			return err
		}
		listed := make([]listedImage, len(records))
		for i, record := range records {
			listed[i].Record = record
			for _, id := range record.Layers {
				// A layer that is absent has no size; `berth check` tells.
				if info, err := images.Layers.Info(id, layer.Tree); err == nil {
					listed[i].Size += info.Size
				}
			}
		}
		return printResult(asJSON, listed, func() error { return printImages(listed) })
	}
	return cmd
}

func printImages(listed []listedImage) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tPLATFORM\tID\tLAYERS\tSIZE\tPULLED")
	for _, i := range listed {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", i.Reference, orDash(i.Platform), short(i.ID), len(i.Layers),
			humanBytes(i.Size), i.Pulled.Local().Format(time.DateTime))
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
