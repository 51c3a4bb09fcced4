//go:build linux

package main

import (
	"context"
	"fmt"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/engine"
)

func killCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{Use: "kill ID...", Short: "Send a signal to the commands of containers", Args: cobra.MinimumNArgs(1)}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "name or number, as TERM, SIGRTMIN+3 or 9")
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		number, err := engine.ParseSignal(name)
		if err != nil {
			return fmt.Errorf("--signal: %w", err)
		}
		return each(ctx, agent, args, func(c *v1.Response_GetContainers_Container) error {
			return killContainer(ctx, agent, c.GetContainerId(), number)
		})
	})
}

func killContainer(ctx context.Context, agent *client.Client, id *v1.ContainerID, signal syscall.Signal) error {
	_, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_KILL_CONTAINER.Enum(),
		KillContainer: &v1.Call_KillContainer{ContainerId: id, Signal: proto.Int32(int32(signal))}})
	return err
}
