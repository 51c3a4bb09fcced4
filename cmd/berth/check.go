//go:build linux

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"berth/engine"
)

// checkResult is what `berth check` prints.
type checkResult struct {
	Checked int                  `json:"checked"` // layers
	Broken  []engine.LayerReport `json:"broken"`
}

func checkCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare every layer in the store with its digest; exit 1 when one is broken",
		Args:  cobra.NoArgs,
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		images, err := engine.OpenImages(ctx, *config)
		if err != nil {
			return err
		}
		reports, err := images.Check(ctx)
		if err != nil {
			return err
		}
		result := checkResult{Checked: len(reports), Broken: []engine.LayerReport{}}
		for _, report := range reports {
			if len(report.Problems) > 0 {
				result.Broken = append(result.Broken, report)
			}
		}
		if err := printResult(asJSON, result, result.print); err != nil {
			return err
		}
		if len(result.Broken) > 0 {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}

func (r checkResult) print() error {
	for _, report := range r.Broken {
		fmt.Printf("layer %s of %s is broken:\n", report.Layer, orDash(strings.Join(report.Images, ", ")))
		for _, problem := range report.Problems {
			fmt.Printf("    %s\n", problem)
		}
	}
	_, err := fmt.Printf("%d layers checked, %d broken\n", r.Checked, len(r.Broken))
	return err
}
