//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"berth/agent/client"
	v1 "berth/api/v1"
)

func topCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "top ID", Short: "List the processes of a container, by their ids on the host", Args: cobra.ExactArgs(1)}
	asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		id, err := findID(ctx, agent, args[0])
		if err != nil {
			return err
		}
		response, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_GET_PROCESSES.Enum(), GetProcesses: &v1.Call_GetProcesses{ContainerId: id}})
		if err != nil {
			return err
		}
		all := response.GetGetProcesses().GetProcesses()
		if asJSON {
			return printMessages(all)
		}
		return printProcesses(all)
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printProcesses(all []*v1.Response_GetProcesses_Process) error {
	table := newTable("PID\tPARENT\tUSER\tCPU\tMEMORY\tSINCE\tCOMMAND")
	for _, p := range all {
		fmt.Fprintf(table, "%d\t%d\t%s\t%.2fs\t%s\t%s\t%s\n", p.GetPid(), p.GetParent(), p.GetUser(), p.GetCpuSeconds(), humanBytes(int64(p.GetRssBytes())),
			age(time.Since(time.Unix(0, p.GetStarted().GetNanoseconds()))), printable(p.GetCommand()))
	}
	return table.Flush()
}
