//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
)

func stopCommand() *cobra.Command {
	var seconds int
	cmd := &cobra.Command{Use: "stop ID...", Short: "Ask containers to end by their images' stop signal, and kill those that do not", Args: cobra.MinimumNArgs(1)}
	cmd.Flags().IntVarP(&seconds, "time", "t", 10, "`SECONDS` until a container is killed")
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		if seconds < 0 {
			return fmt.Errorf("--time %d: %w: it is a number of seconds", seconds, container.ErrInvalid)
		}
		return each(ctx, agent, args, func(c *v1.Response_GetContainers_Container) error {
			if c.Termination != nil {
				return nil
			}
			return stopContainer(ctx, agent, c.GetContainerId(), time.Duration(seconds)*time.Second)
		})
	})
}

// stopContainer returns when the container has ended.
func stopContainer(ctx context.Context, agent *client.Client, id *v1.ContainerID, patience time.Duration) error {
	_, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_STOP_CONTAINER.Enum(),
		StopContainer: &v1.Call_StopContainer{ContainerId: id, Timeout: &v1.DurationInfo{Nanoseconds: proto.Int64(int64(patience))}}})
	return err
}
