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

	"berth/container"
	"berth/launcher"
)

func main() {
	os.Exit(execute(os.Args[1:]))
}

// execute runs a sub-command and returns the exit code: its own, or 125 with the error
// as the last line on stderr.
func execute(args []string) int {
	root := &cobra.Command{
		Use:           "berth",
		Short:         "Run containers from images",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(runCommand(), agentCommand(), pullCommand(), imagesCommand(), saveCommand(), loadCommand(), rmiCommand(), pruneCommand(),
		checkCommand(), repairCommand(), provisionCommand(), destroyCommand(), infoCommand(), versionCommand())
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
	var start *launcher.StartError
	if errors.As(err, &start) {
		return start.Code
	}
	return container.ExitFailure
}

// exitStatus ends a sub-command that has said everything with an exit code.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }
