//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

func eventsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "events", Short: "Print what happens to containers and images from now on, until Ctrl-C", Args: cobra.NoArgs}
	asking(cmd, func(ctx context.Context, agent *client.Client, _ []string) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		stream, err := agent.Stream(ctx, &v1.Call{Type: v1.Call_SUBSCRIBE_EVENTS.Enum()})
		if err != nil {
			return err
		}
		defer stream.Close()
		for {
			e := &v1.Event{}
			err := stream.Next(e)
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				return fmt.Errorf("events: %w: the agent has ended the stream", container.ErrUnavailable)
			case err != nil:
				return err
			}
			if err := printEvent(e, asJSON); err != nil {
				return err
			}
		}
	})
	cmd.ValidArgsFunction = nil
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, an event a line")
	return cmd
}

// eventColour is red for what should not have happened, as far as berth knows.
func eventColour(e *v1.Event) colour {
	switch {
	case e.GetType() == "container."+string(containerizer.LaunchFailed), e.Termination != nil && terminationOf(e.GetTermination()).ExitCode() != 0:
		return red
	case e.GetType() == "container."+string(containerizer.Launched):
		return green
	case e.ContainerId == nil:
		return cyan
	}
	return plain
}

func printEvent(e *v1.Event, asJSON bool) error {
	if e.GetType() == "heartbeat" {
		return nil
	}
	if asJSON {
		text, err := v1.Marshal(e)
		if err != nil {
			return err
		}
		return printLine(string(text))
	}
	line := time.Unix(0, e.GetTime().GetNanoseconds()).Format("15:04:05.000") + "  " + paint(os.Stdout, eventColour(e), e.GetType())
	if e.ContainerId != nil {
		line += "  " + idText(e.GetContainerId())
	}
	if e.GetImage() != "" {
		line += "  " + e.GetImage()
	}
	if e.Termination != nil {
		line += fmt.Sprintf("  exit code %d", terminationOf(e.GetTermination()).ExitCode())
	}
	if e.GetMessage() != "" {
		line += "  " + printable(e.GetMessage())
	}
	return printLine(line)
}
