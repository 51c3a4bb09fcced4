//go:build linux

package main

import (
	"fmt"
	"io"
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
	printAbilities(table, "BACKEND\tWORKS\tUSER NAMESPACES", info.Backends)
	printAbilities(table, "ISOLATOR\tWORKS\tNEEDS", info.Isolators)
	printAbilities(table, "NETWORK\tWORKS", info.Networks)
	return table.Flush()
}

func printAbilities(table io.Writer, header string, abilities []engine.Ability) {
	fmt.Fprintf(table, "\n%s\n", header)
	for _, a := range abilities {
		works := "yes"
		if !a.Works {
			works = "no: " + a.Reason
		}
		if a.Default {
			works += " (default)"
		}
		switch {
		case a.UserNamespaces:
			works += "\tyes"
		case a.UserNamespacesReason != "":
			works += "\tno: " + a.UserNamespacesReason
		}
		if a.Needs != "" {
			works += "\t" + a.Needs
		}
		fmt.Fprintf(table, "%s\t%s\n", a.Name, works)
	}
}
