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
	printAbilities(table, "BACKEND\tWORKS", info.Backends)
	printAbilities(table, "USER NAMESPACES WITH\tWORKS", mapped(info.Backends))
	printAbilities(table, "ISOLATOR\tWORKS\tNEEDS", info.Isolators)
	printAbilities(table, "NETWORK\tWORKS", info.Networks)
	return table.Flush()
}

// mapped tells of backends which can make root file systems of other users' ids.
func mapped(backends []engine.Ability) (abilities []engine.Ability) {
	for _, b := range backends {
		if b.Works {
			abilities = append(abilities, engine.Ability{Name: b.Name, Works: b.UserNamespaces, Reason: b.UserNamespacesReason})
		}
	}
	return abilities
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
		if a.Means != "" {
			works += ", " + a.Means
		}
		if a.Needs != "" {
			works += "\t" + a.Needs
		}
		fmt.Fprintf(table, "%s\t%s\n", a.Name, works)
	}
}
