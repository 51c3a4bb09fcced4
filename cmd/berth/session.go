//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/engine"
	"berth/internal/pty"
)

// session is a container of an agent, as this process has it in the foreground: its output
// is copied here. It is a keeper, and the master of a terminal.
type session struct {
	agent  *client.Client
	id     *v1.ContainerID
	stream *client.Stream
	input  *client.Input // nil: it takes none

	shown   *io.PipeReader // the output of a terminal
	done    chan struct{}  // the stream has ended, and then there are these:
	end     *v1.Response_WaitContainer
	failure error
}

// open begins a session. The stream outlives ctx, which is for the launch alone.
func openSession(ctx context.Context, agent *client.Client, id *v1.ContainerID, call *v1.Call) (*session, error) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	stream, err := agent.Stream(lasting, call)
	if !stop() && err == nil {
		err = errors.Join(context.Cause(ctx), stream.Close())
	} else if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &session{agent: agent, id: id, stream: stream, done: make(chan struct{})}, nil
}

// copyTo begins to copy the output.
func (s *session) copyTo(stdout, stderr io.Writer) {
	go func() {
		defer close(s.done)
		s.end, s.failure = s.copy(stdout, stderr)
	}()
}

// toTerminal begins to copy the output to whoever reads it from s.
func (s *session) toTerminal() {
	reader, writer := io.Pipe()
	s.shown = reader
	go func() {
		defer close(s.done)
		s.end, s.failure = s.copy(writer, writer)
		writer.Close()
	}()
}

// copy copies until the stream ends, and returns how the container has ended. What cannot
// be written any more is dropped: the end is still to come.
func (s *session) copy(stdout, stderr io.Writer) (ended *v1.Response_WaitContainer, err error) {
	for {
		m := &v1.ProcessIO{}
		switch err := s.stream.Next(m); {
		case err == io.EOF:
			return ended, nil
		case err != nil:
			return ended, err
		}
		if m.GetControl().GetType() == v1.ProcessIO_Control_ENDED {
			ended = m.GetControl().GetEnded()
		}
		switch m.GetData().GetType() {
		case v1.ProcessIO_Data_STDOUT:
			_, err = stdout.Write(m.GetData().GetData())
		case v1.ProcessIO_Data_STDERR:
			_, err = stderr.Write(m.GetData().GetData())
		}
		if err != nil {
			stdout, stderr = io.Discard, io.Discard
		}
	}
}

// feed sends berth's standard input. It ends with berth: a read cannot be cut short.
func (s *session) feed(ctx context.Context) error {
	input, err := s.agent.Input(ctx, s.id)
	if err != nil {
		return nil // it has ended already
	}
	s.input = input
	go func() {
		if _, err := io.Copy(input, os.Stdin); err == nil {
			_ = input.CloseWrite()
		}
	}()
	return nil
}

// refused returns when the agent takes no input any more. An error says that somebody else has
// the input; one that has ended leaves the output to be shown.
func (s *session) refused() <-chan error {
	refused := make(chan error, 1)
	if s.input == nil {
		return refused
	}
	go func() { // ends with the container, or with berth
		<-s.input.Done()
		if err := s.input.Close(); errors.Is(err, container.ErrExists) {
			refused <- fmt.Errorf("attach to the input of %s: %w: somebody is attached to it, and there is one writer at a time; with --no_stdin you see what the container says",
				idText(s.id), container.ErrFailedPrecondition)
		}
	}()
	return refused
}

// Wait implements keeper.
func (s *session) Wait(ctx context.Context, id container.ID) (container.Termination, error) {
	<-s.done
	if s.end == nil {
		return container.Termination{}, fmt.Errorf("container %s: %w: %w; if it still runs, `berth attach %s` shows what it says from now on, and `berth stop %s` ends it",
			id, container.ErrUnavailable, errors.Join(errAgentGone, s.failure), id, id)
	}
	return terminationOf(s.end), nil
}

var errAgentGone = errors.New("the agent has gone")

// Kill implements keeper.
func (s *session) Kill(ctx context.Context, _ container.ID, signal os.Signal) error {
	return killContainer(ctx, s.agent, s.id, signal.(syscall.Signal))
}

// Stop implements keeper: it does not wait for the end.
func (s *session) Stop(ctx context.Context, _ container.ID) error {
	go func() { // ends with the container
		_ = stopContainer(ctx, s.agent, s.id, grace)
	}()
	return nil
}

// Destroy implements keeper.
func (s *session) Destroy(ctx context.Context, id container.ID) (bool, error) {
	err := s.Kill(ctx, id, syscall.SIGKILL)
	if errors.Is(err, container.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Read implements master.
func (s *session) Read(p []byte) (int, error) { return s.shown.Read(p) }

// Write implements master.
func (s *session) Write(p []byte) (int, error) { return s.input.Write(p) }

// Resize implements master.
func (s *session) Resize(size pty.Size) error { return s.input.Resize(size.Rows, size.Columns) }

// Finish implements master: the agent ends the stream when all is read.
func (s *session) Finish() {}

// Close implements master: as when a window is closed.
func (s *session) Close() error {
	err := s.Kill(context.Background(), container.ID{}, syscall.SIGHUP)
	if errors.Is(err, container.ErrNotFound) {
		err = nil
	}
	return errors.Join(err, s.shown.Close())
}

// foreground runs a session to its end, and returns the exit status. tty may be nil.
func foreground(ctx context.Context, agent *client.Client, id container.ID, call *v1.Call, tty *terminal, interactive bool) error {
	signals := caught()
	var s *session
	err := launch(ctx, signals, func(ctx context.Context) (err error) {
		s, err = openSession(ctx, agent, containerizer.IDMessage(id), call)
		return err
	})
	if errors.Is(err, container.ErrExists) {
		err = fmt.Errorf("launch %s: %w: choose another --name", id, container.ErrExists)
	}
	if err != nil {
		return err
	}
	defer s.stream.Close()
	if tty == nil {
		s.copyTo(os.Stdout, os.Stderr)
		if interactive {
			err = s.feed(ctx)
		}
	} else {
		err = s.join(ctx, tty)
	}
	if err != nil {
		return err
	}
	return await(ctx, s, id, tty, signals)
}

// join joins the container's terminal with berth's own.
func (s *session) join(ctx context.Context, tty *terminal) (err error) {
	s.toTerminal()
	if s.input, err = s.agent.Input(ctx, s.id); err != nil {
		s.input = nil // it has ended already
	}
	if err := tty.join(s); err != nil {
		return errors.Join(err, tty.part())
	}
	return nil
}

// runByAgent has the agent run a container in the foreground. It ends with this process.
func runByAgent(ctx context.Context, agent *client.Client, config *engine.Config, flags *runFlags, id container.ID, request *v1.ContainerConfig) error {
	tty, err := terminalFor(request.GetContainerInfo(), flags.interactive)
	if err != nil {
		return err
	}
	if err := pullFirst(ctx, config, flags.pull, request.GetContainerInfo()); err != nil {
		return err
	}
	m := launchMessage(id, request, flags)
	m.AutoRemove = proto.Bool(flags.remove)
	return foreground(ctx, agent, id, &v1.Call{Type: v1.Call_LAUNCH_CONTAINER_SESSION.Enum(), LaunchContainer: m}, tty, flags.interactive)
}

// terminalFor is nil when the container has none.
func terminalFor(info *v1.ContainerInfo, interactive bool) (*terminal, error) {
	if info.GetTtyInfo() == nil {
		return nil, nil
	}
	return newTerminal(interactive, info.GetTtyInfo())
}

// launchMessage is the request as the agent is asked.
func launchMessage(id container.ID, request *v1.ContainerConfig, flags *runFlags) *v1.Call_LaunchContainer {
	command := request.GetCommandInfo()
	if request.User != nil {
		command.User = request.User
	}
	return &v1.Call_LaunchContainer{
		ContainerId: containerizer.IDMessage(id), Command: command, Container: request.GetContainerInfo(), Resources: request.GetResources(), Limits: request.GetLimits(),
		ImageArguments: request.GetImageArguments(), Entrypoint: request.Entrypoint, WorkingDirectory: request.WorkingDirectory,
		ReadOnlyRootfs: request.ReadOnlyRootfs, Interactive: proto.Bool(flags.interactive), Security: request.GetSecurity(),
	}
}

// pullFirst gets the images into the store, which is the agent's, with this user's
// credentials and where the user sees how it goes.
func pullFirst(ctx context.Context, config *engine.Config, policy string, info *v1.ContainerInfo) error {
	all := imagesIn(info)
	if len(all) == 0 {
		return nil
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	progress := fetching(config)
	config.Log = warnings
	images, err := engine.OpenImages(ctx, *config)
	if err != nil {
		return err
	}
	defer func() { warn(images.Close()) }()
	defer progress.done()
	for _, img := range all {
		if err := applyPullPolicy(ctx, images, img, policy); err != nil {
			return err
		}
		if _, _, err := images.Pull(ctx, img); err != nil {
			return err
		}
		img.Cached = nil
	}
	return nil
}
