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
	name string
	make func() *cobra.Command
}{
	{"run", runCommand},
	{"agent", agentCommand},
	{"ps", psCommand},
	{"exec", execCommand},
	{"attach", attachCommand},
	{"logs", logsCommand},
	{"wait", waitCommand},
	{"kill", killCommand},
	{"stop", stopCommand},
	{"rm", rmCommand},
	{"inspect", inspectCommand},
	{"stats", statsCommand},
	{"top", topCommand},
	{"cp", cpCommand},
	{"events", eventsCommand},
	{"pull", pullCommand},
	{"images", imagesCommand},
	{"save", saveCommand},
	{"load", loadCommand},
	{"rmi", rmiCommand},
	{"prune", pruneCommand},
	{"check", checkCommand},
	{"repair", repairCommand},
	{"provision", provisionCommand},
	{"destroy", destroyCommand},
	{"info", infoCommand},
	{"version", versionCommand},
}

// command has the sub-command that args begin with. For other args (help, completion, a
// word that is none) it has all: their flags take longer to make than a command to start.
func command(args ...string) *cobra.Command {
	root := &cobra.Command{
		Use:           "berth",
		Short:         "Run containers from images",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	for _, c := range commands {
		if len(args) > 0 && args[0] == c.name {
			root.AddCommand(c.make())
			return root
		}
	}
	for _, c := range commands {
		root.AddCommand(c.make())
	}
	return root
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
