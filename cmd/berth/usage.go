//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"berth/container"
	"berth/engine"
)

// The headings of the commands in the help.
const (
	forContainers = "Containers"
	forImages     = "Images"
	forHost       = "The agent, the host, and root filesystems alone"
	forHelp       = "Help"
)

// explain makes what a newcomer reads: the help of root and of all commands below it, and the
// errors of words and flags that there are not.
func explain(root *cobra.Command) {
	for _, title := range []string{forContainers, forImages, forHost, forHelp} {
		root.AddGroup(&cobra.Group{ID: title, Title: title})
	}
	root.SetHelpCommandGroupID(forHelp)
	root.SetCompletionCommandGroupID(forHelp)
	root.SetUsageFunc(usage)
	root.SetFlagErrorFunc(hint)
	root.Args = cobra.ArbitraryArgs
	root.Flags().SetInterspersed(false)
	root.RunE = func(_ *cobra.Command, args []string) error { return help(root, args) }
	root.SetHelpCommand(&cobra.Command{
		Use: "help [COMMAND]", Short: "Tell more of a command", GroupID: forHelp,
		RunE: func(_ *cobra.Command, args []string) error { return help(root, args) },
	})
}

// help prints the help of the command with a name, or of all.
func help(root *cobra.Command, name []string) error {
	found, rest, err := root.Find(name)
	if err != nil || len(rest) > 0 {
		var names []string
		for _, c := range root.Commands() {
			names = append(names, c.Name())
		}
		return fmt.Errorf("unknown command %q%s: %w: see `berth --help`", name[0], nearest(name[0], names), container.ErrInvalid)
	}
	found.InitDefaultHelpFlag()
	return found.Help()
}

// usage is the part of the help that is made of a command, below what it says of itself.
func usage(c *cobra.Command) error {
	out := c.OutOrStderr()
	fmt.Fprintf(out, "Usage:\n  %s\n", c.UseLine())
	for _, g := range c.Groups() {
		if err := list(out, g.Title, c, g.ID); err != nil {
			return err
		}
	}
	if err := list(out, "Commands", c, ""); err != nil {
		return err
	}
	if !c.HasParent() {
		fmt.Fprint(out, "\n`berth COMMAND --help` tells more of one. What a flag does not say is taken from the\nenvironment: that of --work_dir is BERTH_WORK_DIR. Names may be written with - or with _.\n")
		return nil
	}
	own, agents := splitFlags(c)
	for _, part := range []struct {
		title string
		flags *pflag.FlagSet
	}{{"Flags", own}, {"Flags that `berth agent` has, too", agents}} {
		if part.flags.HasAvailableFlags() {
			fmt.Fprintf(out, "\n%s:\n%s", part.title, part.flags.FlagUsagesWrapped(width()))
		}
	}
	return nil
}

// list lists the commands of a group.
func list(out io.Writer, title string, c *cobra.Command, group string) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, sub := range c.Commands() {
		if sub.GroupID != group || !sub.IsAvailableCommand() && sub.Name() != "help" {
			continue
		}
		if title != "" {
			fmt.Fprintf(table, "\n%s:\n", title)
			title = ""
		}
		fmt.Fprintf(table, "  %s\t%s\n", sub.Name(), sub.Short)
	}
	return table.Flush()
}

// width is that of the terminal that the help is read at; 0: it is read elsewhere.
func width() int {
	columns, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// splitFlags tells a command's own flags from those that it has from the agent.
func splitFlags(c *cobra.Command) (own, agents *pflag.FlagSet) {
	config := engine.DefaultConfig()
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	storeFlags(known, &config)
	launchFlags(known, &config)
	own, agents = pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if c.Name() != "agent" && known.Lookup(f.Name) != nil {
			agents.AddFlag(f)
		} else {
			own.AddFlag(f)
		}
	})
	return own, agents
}

// withUsage has a command say what its arguments are, when it is given others.
func withUsage(check cobra.PositionalArgs) cobra.PositionalArgs {
	if check == nil {
		return nil
	}
	return func(c *cobra.Command, args []string) error {
		if check(c, args) == nil {
			return nil
		}
		given := "no argument"
		if len(args) > 0 {
			given = fmt.Sprintf("the arguments %q", args)
		}
		return fmt.Errorf("%s: %s: %w: it is `%s`", strings.TrimPrefix(c.CommandPath(), "berth "), given, container.ErrInvalid, c.UseLine())
	}
}
