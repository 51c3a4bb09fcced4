//go:build linux

// Berth runs containers from images: `berth run IMAGE`. Each sub-command has a file of
// its own; none has logic beyond turning flags into calls and results into text.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"berth/agent/client"
	"berth/container"
	"berth/launcher"
)

func main() {
	os.Exit(execute(os.Args[1:]))
}

// commands has every sub-command under its name.
var commands = []struct {
	name  string
	make  func() *cobra.Command
	group string // in the help
}{
	{"run", runCommand, forContainers},
	{"agent", agentCommand, forHost},
	{"ps", psCommand, forContainers},
	{"exec", execCommand, forContainers},
	{"attach", attachCommand, forContainers},
	{"logs", logsCommand, forContainers},
	{"wait", waitCommand, forContainers},
	{"kill", killCommand, forContainers},
	{"stop", stopCommand, forContainers},
	{"rm", rmCommand, forContainers},
	{"inspect", inspectCommand, forContainers},
	{"stats", statsCommand, forContainers},
	{"top", topCommand, forContainers},
	{"cp", cpCommand, forContainers},
	{"events", eventsCommand, forContainers},
	{"pull", pullCommand, forImages},
	{"images", imagesCommand, forImages},
	{"save", saveCommand, forImages},
	{"load", loadCommand, forImages},
	{"rmi", rmiCommand, forImages},
	{"prune", pruneCommand, forImages},
	{"check", checkCommand, forImages},
	{"repair", repairCommand, forImages},
	{"provision", provisionCommand, forHost},
	{"destroy", destroyCommand, forHost},
	{"info", infoCommand, forHost},
	{"version", versionCommand, forHost},
}

// command has the sub-command that args begin with. For other args (help, completion, a
// word that is none) it has all: their flags take longer to make than a command to start.
func command(args ...string) *cobra.Command {
	root := &cobra.Command{
		Use:   "berth COMMAND [flags] [ARG...]",
		Short: "Run containers from images",
		Long: `Run containers from images: those of registries, archives and layouts.

  berth run -it debian -- bash       at this terminal
  berth run -v /src:/src IMAGE make  and exit with its status
  berth agent &                      for what is to go on without a terminal:
  berth run -d --name web IMAGE      then ps, logs, exec, stop, rm
  berth info                         what this host can do, and why not`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	explain(root)
	for _, c := range commands {
		if len(args) > 0 && args[0] == c.name {
			add(root, c.make(), c.group)
			return root
		}
	}
	for _, c := range commands {
		add(root, c.make(), c.group)
	}
	return root
}

func add(root, c *cobra.Command, group string) {
	c.GroupID, c.Args = group, withUsage(c.Args)
	root.AddCommand(c)
}

// execute runs a sub-command and returns the exit code: its own, or 125 with the error
// as the last line on stderr.
func execute(args []string) int {
	root := command(args...)
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	_ = complain(red, "berth:", err.Error()) // there is nobody else to be told
	return exitCode(err)
}

// exitCode is that of an error: 126 or 127 when the command of a container was not executed.
func exitCode(err error) int {
	var start *launcher.StartError
	var refused *client.Error
	switch {
	case errors.As(err, &start):
		return start.ExitCode()
	case errors.As(err, &refused):
		return refused.ExitCode()
	}
	return container.ExitFailure
}

// exitStatus ends a sub-command that has said everything with an exit code.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }
