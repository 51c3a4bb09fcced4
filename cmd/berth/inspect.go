//go:build linux

package main

import (
	"context"

	"github.com/spf13/cobra"

	"berth/agent/client"
)

func inspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect ID",
		Short: "Print what is known of a container, as JSON",
		Args:  cobra.ExactArgs(1),
	}
	asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		found, err := find(ctx, agent, args[0])
		if err != nil {
			return err
		}
		return printMessage(found)
	})
	cmd.Flags().Bool("json", true, "print JSON, which it always does")
	return cmd
}
