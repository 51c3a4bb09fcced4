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

// command has all sub-commands.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "berth",
		Short:         "Run containers from images",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(runCommand(), agentCommand(), psCommand(), execCommand(), attachCommand(), logsCommand(), waitCommand(), killCommand(),
		stopCommand(), rmCommand(), inspectCommand(), statsCommand(), topCommand(), cpCommand(), eventsCommand(), pullCommand(), imagesCommand(), saveCommand(), loadCommand(), rmiCommand(), pruneCommand(),
		checkCommand(), repairCommand(), provisionCommand(), destroyCommand(), infoCommand(), versionCommand())
	return root
}

// execute runs a sub-command and returns the exit code: its own, or 125 with the error
// as the last line on stderr.
func execute(args []string) int {
	root := command()
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	fmt.Fprintf(os.Stderr, "berth: %v\n", err)
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
