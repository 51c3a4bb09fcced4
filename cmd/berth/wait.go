//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"berth/agent/client"
	v1 "berth/api/v1"
)

func waitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wait ID...",
		Short: "Wait for the end of containers and print their exit codes",
		Long:  "Wait for the end of containers and print the exit code of each, a line for each.\nThe exit status is 0 if all of them could be waited for.",
		Args:  cobra.MinimumNArgs(1),
	}
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		return each(ctx, agent, args, func(c *v1.Response_GetContainers_Container) error {
			response, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &v1.Call_WaitContainer{ContainerId: c.GetContainerId()}})
			if err != nil {
				return err
			}
			return printLine(fmt.Sprint(terminationOf(response.GetWaitContainer()).ExitCode()))
		})
	})
}
