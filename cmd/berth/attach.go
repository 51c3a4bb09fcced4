//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
)

func attachCommand() *cobra.Command {
	var noInput bool
	cmd := &cobra.Command{
		Use:   "attach ID",
		Short: "Show what a container says from now on, and send it what is typed",
		Long: `Show what a container says from now on, send it what is typed, and exit with its status
when it ends. At its terminal Ctrl-P Ctrl-Q leaves it; else Ctrl-C does. It runs on then.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&noInput, "no_stdin", false, "send nothing")
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		found, err := find(ctx, agent, args[0])
		if err != nil {
			return err
		}
		if found.Termination != nil {
			id := idText(found.GetContainerId())
			return fmt.Errorf("attach to %s: %w: it has ended; `berth logs %s` prints what it said", id, container.ErrFailedPrecondition, id)
		}
		return attach(ctx, agent, found, !noInput)
	})
}

// attach returns when the container has ended or the user has left it.
func attach(ctx context.Context, agent *client.Client, c *v1.Response_GetContainers_Container, takesInput bool) error {
	stream, err := agent.Stream(ctx, &v1.Call{Type: v1.Call_ATTACH_CONTAINER_OUTPUT.Enum(),
		AttachContainerOutput: &v1.Call_AttachContainerOutput{ContainerId: c.GetContainerId()}})
	if err != nil {
		return err
	}
	defer stream.Close()
	s := &session{agent: agent, id: c.GetContainerId(), stream: stream, done: make(chan struct{})}
	left := make(chan struct{})
	var tty *terminal
	switch {
	case takesInput && c.GetContainer().GetTtyInfo() != nil && term.IsTerminal(int(os.Stdin.Fd())):
		if tty, err = newTerminal(true, c.GetContainer().GetTtyInfo()); err != nil {
			return err
		}
		tty.keys = &leaving{from: os.Stdin, left: left}
		err = s.join(ctx, tty)
	default:
		s.copyTo(os.Stdout, os.Stderr)
		if takesInput {
			err = s.feed(ctx)
		}
	}
	if err != nil {
		return err
	}
	select {
	case <-s.done:
	case <-left:
		// The next one who attaches is to find the input free.
		if s.input != nil {
			err = s.input.Close()
		}
		return errors.Join(err, stream.Close(), tty.part())
	case err := <-s.refused():
		err = errors.Join(err, stream.Close())
		if tty != nil {
			err = errors.Join(err, tty.part())
		}
		return err
	}
	if tty != nil {
		err = tty.part()
	}
	return errors.Join(err, s.ended(ctx))
}

// ended returns the exit status of a container whose output has ended.
func (s *session) ended(ctx context.Context) error {
	response, _, err := s.agent.Call(ctx, &v1.Call{Type: v1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &v1.Call_WaitContainer{ContainerId: s.id}})
	if err != nil {
		return err
	}
	if code := terminationOf(response.GetWaitContainer()).ExitCode(); code != 0 {
		return exitStatus(code)
	}
	return nil
}

// The keys that leave a container.
const (
	ctrlP = 'P' - '@'
	ctrlQ = 'Q' - '@'
)

// leaving passes on what is typed, until Ctrl-P Ctrl-Q.
type leaving struct {
	from io.Reader
	left chan struct{}
	held bool // a Ctrl-P, which may be the first key of the two
	gone bool
}

// Read implements io.Reader.
func (l *leaving) Read(p []byte) (int, error) {
	if l.gone {
		return 0, io.EOF
	}
	typed := make([]byte, max(1, len(p)/2)) // each may come with one that was held
	n, err := l.from.Read(typed)
	out := 0
	for _, key := range typed[:n] {
		if l.held && key == ctrlQ {
			l.gone = true
			close(l.left)
			return out, nil
		}
		if l.held {
			p[out], out = ctrlP, out+1
		}
		if l.held = key == ctrlP; !l.held {
			p[out], out = key, out+1
		}
	}
	return out, err
}
