//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/engine"
	"berth/provisioner"
)

func checkCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare all that is in the store with its digests; exit 1 when something is broken",
		Args:  cobra.NoArgs,
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withImages(cmd, config, func(ctx context.Context, images *engine.Images) error {
			report, err := images.Provisioner.Check(ctx)
			if report == nil {
				return err
			}
			// Also when there is something that could not be looked at.
			err = errors.Join(printResult(asJSON, report, func() error { return printReport(report) }), err)
			if err != nil {
				return err
			}
			if !report.Clean() {
				return exitStatus(1)
			}
			return nil
		})
	}
	return cmd
}

func printReport(r *provisioner.Report) error {
	printBroken(r.Layers)
	for _, rec := range r.Records {
		fmt.Printf("record %s of %s is broken:\n    %s\n", rec.Path, cmp.Or(rec.Image, "a container"), rec.Problem)
	}
	for _, path := range r.Unknown {
		fmt.Printf("not berth's, left alone: %s\n", path)
	}
	if !r.Clean() {
		fmt.Println("`berth repair` mends what can be fetched again")
	}
	_, err := fmt.Printf("%d layers checked, %d broken; %d records broken\n", r.Checked, len(r.Layers), len(r.Records))
	return err
}

func printBroken(layers []provisioner.LayerReport) {
	for _, report := range layers {
		users := slices.Clone(report.Images)
		for _, id := range report.Containers {
			users = append(users, "container "+id)
		}
		fmt.Printf("layer %s of %s is broken:\n", report.Layer, orDash(strings.Join(users, ", ")))
		for _, problem := range report.Problems {
			fmt.Printf("    %s\n", problem)
		}
	}
}
