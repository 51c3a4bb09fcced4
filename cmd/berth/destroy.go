//go:build linux

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"berth/container"
	"berth/engine"
)

func destroyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "destroy ID",
		Short: "Remove the root filesystems that were provisioned under an id",
		Args:  cobra.ExactArgs(1),
	}
	config := configured(cmd, storeFlags, launchFlags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		id, err := container.ParseID(args[0])
		if err != nil {
			return err
		}
		e, err := engine.Open(cmd.Context(), *config)
		if err != nil {
			return err
		}
		if err := e.Recover(cmd.Context()); err != nil {
			fmt.Fprintf(os.Stderr, "berth: warning: %v\n", err)
		}
		destroyed, err := e.Destroy(cmd.Context(), id)
		if err != nil {
			return err
		}
		if !destroyed {
			return fmt.Errorf("destroy %s: %w", id, container.ErrNotFound)
		}
		return nil
	}
	return cmd
}
