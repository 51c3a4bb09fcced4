//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"berth/agent/client"
	v1 "berth/api/v1"
)

// statsInterval is the time between two measurements.
const statsInterval = time.Second

func statsCommand() *cobra.Command {
	var once, asJSON bool
	cmd := &cobra.Command{
		Use:   "stats [ID...]",
		Short: "Show what containers use, every second until Ctrl-C",
		Long: `Show what containers use, every second until Ctrl-C: all root containers that run, or those
that are named. CPU is that of the last second, 100% being one processor; what is not
measured, because its isolator is missing, is a dash.`,
	}
	cmd.Flags().BoolVar(&once, "no_stream", false, "only once")
	asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		before, err := measured(ctx, agent, args)
		for err == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(statsInterval):
			}
			var now []*v1.Response_GetContainers_Container
			if now, err = measured(ctx, agent, args); err != nil {
				break
			}
			if asJSON {
				err = printMessages(now)
			} else {
				err = printStats(before, now, once)
			}
			if before = now; once {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the containers with their resource_statistics as JSON")
	return cmd
}

// measured are the containers that are named, or all root containers that run.
func measured(ctx context.Context, agent *client.Client, typed []string) (chosen []*v1.Response_GetContainers_Container, err error) {
	all, err := containers(ctx, agent)
	if err != nil {
		return nil, err
	}
	for _, name := range typed {
		one, err := choose(all, name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, one)
	}
	if len(typed) > 0 {
		return chosen, nil
	}
	return slices.DeleteFunc(all, func(c *v1.Response_GetContainers_Container) bool {
		return c.ResourceStatistics == nil || c.GetContainerId().GetParent() != nil
	}), nil
}

// printStats prints a table; at a terminal in the place of the one before.
func printStats(before, now []*v1.Response_GetContainers_Container, once bool) error {
	var text bytes.Buffer
	if !once && term.IsTerminal(int(os.Stdout.Fd())) {
		text.WriteString("\x1b[H\x1b[2J")
	}
	if err := statsTable(&text, before, now); err != nil {
		return err
	}
	_, err := os.Stdout.Write(text.Bytes())
	return err
}

func statsTable(w io.Writer, before, now []*v1.Response_GetContainers_Container) error {
	earlier := make(map[string]*v1.ResourceStatistics)
	for _, c := range before {
		earlier[idText(c.GetContainerId())] = c.GetResourceStatistics()
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tCPU\tMEMORY\tLIMIT\tPIDS\tREAD\tWRITTEN\tRECEIVED\tSENT")
	for _, c := range now {
		id, s := idText(c.GetContainerId()), c.GetResourceStatistics()
		read, written := blockBytes(s)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", id, cpuShare(earlier[id], s), amount(s.GetMemTotalBytes(), s == nil || s.MemTotalBytes == nil),
			amount(s.GetMemLimitBytes(), s == nil || s.MemLimitBytes == nil), count(s), read, written,
			amount(s.GetNetRxBytes(), s == nil || s.NetRxBytes == nil), amount(s.GetNetTxBytes(), s == nil || s.NetTxBytes == nil))
	}
	return table.Flush()
}

// cpuShare is how much of a processor was used between two measurements.
func cpuShare(before, now *v1.ResourceStatistics) string {
	elapsed := now.GetTimestamp() - before.GetTimestamp()
	if before == nil || now == nil || now.CpusUserTimeSecs == nil || elapsed <= 0 {
		return "-"
	}
	used := now.GetCpusUserTimeSecs() + now.GetCpusSystemTimeSecs() - before.GetCpusUserTimeSecs() - before.GetCpusSystemTimeSecs()
	return fmt.Sprintf("%.1f%%", 100*max(0, used)/elapsed)
}

func amount(bytes uint64, unknown bool) string {
	if unknown {
		return "-"
	}
	return humanBytes(int64(bytes))
}

func count(s *v1.ResourceStatistics) string {
	if s == nil || s.Processes == nil {
		return "-"
	}
	return fmt.Sprint(s.GetProcesses())
}

// blockBytes are what was read from block devices, and written to them: of all devices
// together.
func blockBytes(s *v1.ResourceStatistics) (read, written string) {
	read, written = "-", "-"
	for _, t := range s.GetBlkioStatistics().GetThrottling() {
		if t.Device != nil {
			continue
		}
		for _, value := range t.GetIoServiceBytes() {
			switch value.GetOp() {
			case v1.CgroupInfo_Blkio_READ:
				read = humanBytes(int64(value.GetValue()))
			case v1.CgroupInfo_Blkio_WRITE:
				written = humanBytes(int64(value.GetValue()))
			}
		}
	}
	return read, written
}
