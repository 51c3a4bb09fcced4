//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
)

func psCommand() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{Use: "ps", Short: "List the containers of the agent, with what is nested in them", Args: cobra.NoArgs}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that have ended")
	asking(cmd, func(ctx context.Context, agent *client.Client, _ []string) error {
		list, err := containers(ctx, agent)
		if err != nil {
			return err
		}
		if !all {
			list = slices.DeleteFunc(list, func(c *v1.Response_GetContainers_Container) bool { return c.Termination != nil })
		}
		if asJSON {
			return printMessages(list)
		}
		return printContainers(list)
	})
	cmd.ValidArgsFunction = nil
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printContainers(list []*v1.Response_GetContainers_Container) error {
	// A tree: what is nested in a container comes after it.
	slices.SortFunc(list, func(a, b *v1.Response_GetContainers_Container) int {
		return slices.Compare(strings.Split(idText(a.GetContainerId()), "."), strings.Split(idText(b.GetContainerId()), "."))
	})
	table := newTable("ID\tIMAGE\tCOMMAND\t" + paint(os.Stdout, bold, "STATE") + "\tSINCE")
	for _, c := range list {
		state := paint(os.Stdout, stateColour(c), stateOf(c))
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", treeID(c.GetContainerId()), orDash(imageOf(c)), orDash(commandOf(c)), state, sinceOf(c))
	}
	return table.Flush()
}

// treeID is an id below that of its parent.
func treeID(id *v1.ContainerID) string {
	depth := strings.Count(idText(id), ".")
	if depth == 0 {
		return id.GetValue()
	}
	return strings.Repeat("  ", depth-1) + "└ " + id.GetValue()
}

func imageOf(c *v1.Response_GetContainers_Container) string {
	img := c.GetContainer().GetMesos().GetImage()
	if img == nil {
		return ""
	}
	return engine.ImageName(img)
}

// maxCommand bounds what a table shows of a command.
const maxCommand = 40

func commandOf(c *v1.Response_GetContainers_Container) string {
	words := c.GetCommand().GetArguments()
	if value := c.GetCommand().GetValue(); len(words) == 0 && value != "" {
		words = []string{value}
	}
	words = append(slices.Clone(words), c.GetImageArguments()...)
	text := []rune(printable(strings.Join(words, " ")))
	if len(text) > maxCommand {
		text = append(text[:maxCommand-1], '…')
	}
	return string(text)
}

// printable leaves out what could steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}

// stateOf says of an ended container how it ended.
func stateOf(c *v1.Response_GetContainers_Container) string {
	if c.Termination == nil {
		return strings.ToLower(c.GetState())
	}
	t := terminationOf(c.GetTermination())
	switch {
	case t.Limitation != nil:
		return "limit exceeded"
	case t.Status == nil:
		return "never started"
	case t.Status.Signaled():
		return fmt.Sprintf("signal %d", t.Status.Signal())
	default:
		return fmt.Sprintf("exit %d", t.ExitCode())
	}
}

// stateColour is green for what runs, red for what ended otherwise than it was to.
func stateColour(c *v1.Response_GetContainers_Container) colour {
	switch {
	case c.Termination != nil && terminationOf(c.GetTermination()).ExitCode() == 0:
		return faint
	case c.Termination != nil:
		return red
	case c.GetState() == string(container.Running):
		return green
	}
	return yellow
}

// sinceOf is how long a container has been in its state.
func sinceOf(c *v1.Response_GetContainers_Container) string {
	at := c.GetLaunched()
	if c.GetState() == string(container.Ended) {
		at = c.GetEnded()
	}
	if at == nil {
		return "-"
	}
	return age(time.Since(time.Unix(0, at.GetNanoseconds())))
}

// age is a time with as much of it as a person wants to know.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
