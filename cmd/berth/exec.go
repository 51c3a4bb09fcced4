//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

// execFlags are what `berth exec` says of the command.
type execFlags struct {
	env              []string
	user, workdir    string
	interactive, tty bool
}

func execCommand() *cobra.Command {
	var flags execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] ID CMD [ARG...]",
		Short: "Execute a command in a container that runs, and exit with its status",
		Long: `Execute a command in a container that runs: in its file system, its namespaces and its
cgroups, with its environment. The exit status is that of the command, as of run.`,
		Args: cobra.MinimumNArgs(2),
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what comes after ID is the command's
	f.StringArrayVarP(&flags.env, "env", "e", nil, "environment variable NAME=VALUE, or NAME for that of berth")
	f.StringVarP(&flags.user, "user", "u", "", "USER[:GROUP], names or numbers, as the image knows them (default: the container's)")
	f.StringVarP(&flags.workdir, "workdir", "w", "", "directory in which the command starts (default: the container's)")
	f.BoolVarP(&flags.interactive, "interactive", "i", false, "give the command berth's standard input")
	f.BoolVarP(&flags.tty, "tty", "t", false, "give the command a terminal; with -i it is berth's own")
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		parent, err := findID(ctx, agent, args[0])
		if err != nil {
			return err
		}
		return flags.exec(ctx, agent, parent, args[1:])
	})
}

// exec runs a session in a container.
func (e *execFlags) exec(ctx context.Context, agent *client.Client, parent *v1.ContainerID, words []string) error {
	id, err := container.ParseID(idText(parent) + "." + strings.ToLower(rand.Text()[:12]))
	if err != nil {
		return err
	}
	run := runFlags{env: e.env}
	m := &v1.Call_LaunchNestedContainerSession{ContainerId: containerizer.IDMessage(id), Interactive: proto.Bool(e.interactive), AutoRemove: proto.Bool(true),
		Command: &v1.CommandInfo{Shell: proto.Bool(false), Value: proto.String(words[0]), Arguments: words, Environment: run.environment()}}
	if e.user != "" {
		m.Command.User = proto.String(e.user)
	}
	if e.workdir != "" {
		m.WorkingDirectory = proto.String(e.workdir)
	}
	if e.tty {
		m.Container = &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum(), TtyInfo: &v1.TTYInfo{}}
	}
	tty, err := terminalFor(m.GetContainer(), e.interactive)
	if err != nil {
		return err
	}
	return foreground(ctx, agent, id, &v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(), LaunchNestedContainerSession: m}, tty, e.interactive)
}
