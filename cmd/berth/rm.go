//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
)

func rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "rm ID...", Short: "Remove ended containers: their results and their output", Args: cobra.MinimumNArgs(1)}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also containers that run: they are killed")
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		return each(ctx, agent, args, func(c *v1.Response_GetContainers_Container) error {
			id := c.GetContainerId()
			if c.Termination == nil && !force {
				return fmt.Errorf("remove %s: %w: it has not ended; `berth stop %s` ends it, and `berth rm -f %s` kills it",
					idText(id), container.ErrFailedPrecondition, idText(id), idText(id))
			}
			_, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_REMOVE_CONTAINER.Enum(),
				RemoveContainer: &v1.Call_RemoveContainer{ContainerId: id, Force: proto.Bool(force)}})
			return err
		})
	})
}
