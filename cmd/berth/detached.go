//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
)

// runDetached leaves a container to the agent, and prints its id.
func runDetached(ctx context.Context, agent *client.Client, config *engine.Config, f *pflag.FlagSet, flags *runFlags, id container.ID, request *v1.ContainerConfig) error {
	if err := pullFirst(ctx, config, flags.pull, request.GetContainerInfo()); err != nil {
		return err
	}
	m := launchMessage(id, request, flags)
	m.AutoRemove = proto.Bool(flags.remove && f.Changed("rm"))
	_, code, err := agent.Call(ctx, &v1.Call{Type: v1.Call_LAUNCH_CONTAINER.Enum(), LaunchContainer: m})
	if err == nil && code != 200 {
		err = fmt.Errorf("launch %s: %w: choose another --name", id, container.ErrExists)
	}
	if err != nil {
		return err
	}
	return printLine(id.String())
}
