//go:build linux

package main

import (
	"fmt"

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
		id, err := container.ParseID(args[0])
		if err != nil {
			return err
		}
		return withEngine(cmd.Context(), config, func(e *engine.Engine) error {
			destroyed, err := e.Destroy(cmd.Context(), id)
			if err == nil && !destroyed {
				err = fmt.Errorf("destroy %s: %w", id, container.ErrNotFound)
			}
			return err
		})
	}
	return cmd
}
