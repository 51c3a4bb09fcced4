//go:build linux

package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"berth/engine"
)

func infoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Tell what this host can do, and why not",
		Args:  cobra.NoArgs,
	}
	config := configured(cmd, storeFlags, launchFlags)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		info, err := engine.Inspect(cmd.Context(), *config)
		if err != nil {
			return err
		}
		return printResult(asJSON, info, func() error { return printInfo(info) })
	}
	return cmd
}

func printInfo(info *engine.Info) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "kernel\t%s\n", info.Kernel)
	fmt.Fprintf(table, "work_dir\t%s (%s)\n", info.WorkDir, info.FileSystem)
	for _, part := range []struct {
		kind string
		all  []engine.Ability
	}{{"backend", info.Backends}, {"isolator", info.Isolators}} {
		for _, a := range part.all {
			verdict := "works"
			if a.Reason != "" {
				verdict = a.Reason
			}
			if a.Default {
				verdict += " (default)"
			}
			fmt.Fprintf(table, "%s %s\t%s\n", part.kind, a.Name, verdict)
		}
	}
	return table.Flush()
}
