//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
)

// runtimeFlag is the only agent flag of commands that ask the agent: where it is.
func runtimeFlag(f *pflag.FlagSet, c *engine.Config) {
	f.StringVar(&c.RuntimeDir, "runtime_dir", c.RuntimeDir, "that of the agent, which answers there")
}

// asking makes a command ask the agent.
func asking(cmd *cobra.Command, ask func(context.Context, *client.Client, []string) error) *cobra.Command {
	config := configured(cmd, runtimeFlag)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		agent := client.New(config.AgentSocket())
		defer agent.Close()
		return ask(cmd.Context(), agent, args)
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return completeIDs(cmd, config, typed), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// agentFor returns the agent that answers. ErrFailedPrecondition: an agent flag says
// otherwise than the agent's own.
func agentFor(ctx context.Context, f *pflag.FlagSet, config *engine.Config) (*client.Client, error) {
	agent := client.New(config.AgentSocket())
	response, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_GET_FLAGS.Enum()})
	if err != nil {
		return agent, err
	}
	return agent, sameFlags(f, response.GetGetFlags().GetFlags())
}

// sameFlags compares the agent flags that were given with those of the agent.
func sameFlags(given *pflag.FlagSet, agents []*v1.Flag) error {
	values := make(map[string]string)
	for _, flag := range agents {
		values[flag.GetName()] = flag.GetValue()
	}
	config := engine.DefaultConfig()
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	storeFlags(known, &config)
	launchFlags(known, &config)
	var err error
	known.VisitAll(func(flag *pflag.Flag) {
		mine := given.Lookup(flag.Name)
		if mine.Changed && mine.Value.String() != values[flag.Name] && err == nil {
			err = fmt.Errorf("--%s %s: %w: the agent runs with %q; leave the flag out, or start the agent with it",
				flag.Name, mine.Value, container.ErrFailedPrecondition, values[flag.Name])
		}
	})
	return err
}

// containers asks for all containers, also nested ones and those that have ended.
func containers(ctx context.Context, agent *client.Client) ([]*v1.Response_GetContainers_Container, error) {
	response, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_GET_CONTAINERS.Enum(), GetContainers: &v1.Call_GetContainers{
		ShowNested: proto.Bool(true), ShowStandalone: proto.Bool(true), ShowEnded: proto.Bool(true)}})
	return response.GetGetContainers().GetContainers(), err
}

// find returns the container that a person means: by its id, or by the first characters of
// it that no other has.
func find(ctx context.Context, agent *client.Client, typed string) (*v1.Response_GetContainers_Container, error) {
	all, err := containers(ctx, agent)
	if err != nil {
		return nil, err
	}
	return choose(all, typed)
}

func choose(all []*v1.Response_GetContainers_Container, typed string) (*v1.Response_GetContainers_Container, error) {
	var found []*v1.Response_GetContainers_Container
	var names, ids []string
	for _, c := range all {
		id := idText(c.GetContainerId())
		ids = append(ids, id)
		rest, ok := strings.CutPrefix(id, typed)
		if ok && rest == "" {
			return c, nil
		}
		if ok && typed != "" && !strings.Contains(rest, ".") { // what is nested in it has the same first characters
			found, names = append(found, c), append(names, id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("container %q: %w%s: `berth ps -a` lists those that there are", typed, container.ErrNotFound, nearest(typed, ids))
	default:
		return nil, fmt.Errorf("container %q: %w: it may be %s", typed, container.ErrInvalid, strings.Join(names, ", "))
	}
}

// findID is find for who needs no more than the id.
func findID(ctx context.Context, agent *client.Client, typed string) (*v1.ContainerID, error) {
	found, err := find(ctx, agent, typed)
	return found.GetContainerId(), err
}

// each does something with each of the containers that are named, whatever becomes of the
// others.
func each(ctx context.Context, agent *client.Client, typed []string, do func(*v1.Response_GetContainers_Container) error) error {
	all, err := containers(ctx, agent)
	if err != nil {
		return err
	}
	var errs []error
	for _, one := range typed {
		found, err := choose(all, one)
		if err == nil {
			err = do(found)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// idText is the text form of an id.
func idText(id *v1.ContainerID) string {
	if id.GetParent() == nil {
		return id.GetValue()
	}
	return idText(id.GetParent()) + "." + id.GetValue()
}

// terminationOf is how a container has ended.
func terminationOf(m *v1.Response_WaitContainer) container.Termination {
	t := container.Termination{Message: m.GetMessage()}
	if m.ExitStatus != nil {
		status := syscall.WaitStatus(m.GetExitStatus())
		t.Status = &status
	}
	if m.Reason != nil {
		t.Limitation = &container.Limitation{Message: m.GetMessage()}
	}
	return t
}

// printMessage prints a message of the API as JSON.
func printMessage(m proto.Message) error {
	text, err := v1.Marshal(m)
	if err != nil {
		return err
	}
	return printResult(true, json.RawMessage(text), nil)
}

// printMessages prints several, as a list.
func printMessages[M proto.Message](all []M) error {
	list := []json.RawMessage{}
	for _, m := range all {
		text, err := v1.Marshal(m)
		if err != nil {
			return err
		}
		list = append(list, text)
	}
	return printResult(true, list, nil)
}

// completeIDs are the ids that begin with what was typed.
func completeIDs(cmd *cobra.Command, config *engine.Config, typed string) (ids []string) {
	if fromEnvironment(cmd.Flags()) != nil {
		return nil
	}
	agent := client.New(config.AgentSocket())
	defer agent.Close()
	all, _ := containers(cmd.Context(), agent) // without an agent there is nothing to complete
	for _, c := range all {
		if id := idText(c.GetContainerId()); strings.HasPrefix(id, typed) {
			ids = append(ids, id)
		}
	}
	return ids
}

// completeImages has the images of the agent completed, as the first word.
func completeImages(cmd *cobra.Command, config *engine.Config) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) (names []string, _ cobra.ShellCompDirective) {
		if len(args) > 0 || fromEnvironment(cmd.Flags()) != nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		agent := client.New(config.AgentSocket())
		defer agent.Close()
		response, _, _ := agent.Call(cmd.Context(), &v1.Call{Type: v1.Call_GET_IMAGES.Enum()}) // without an agent there are none
		for _, img := range response.GetGetImages().GetImages() {
			if strings.HasPrefix(img.GetReference(), typed) {
				names = append(names, img.GetReference())
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
