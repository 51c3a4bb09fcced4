//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
)

func logsCommand() *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{Use: "logs ID", Short: "Print the output of a container", Args: cobra.ExactArgs(1)}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until the container has ended")
	cmd.Flags().IntVarP(&tail, "tail", "n", -1, "only the last `LINES` of each of stdout and stderr (default: all)")
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		if tail < 0 && cmd.Flags().Changed("tail") {
			return fmt.Errorf("--tail %d: %w: it is a number of lines", tail, container.ErrInvalid)
		}
		found, err := find(ctx, agent, args[0])
		if err != nil {
			return err
		}
		return printLogs(ctx, agent, found, follow, tail)
	})
}

// printLogs prints what is there of the outputs, from their files; then, to follow, what
// comes after that.
func printLogs(ctx context.Context, agent *client.Client, c *v1.Response_GetContainers_Container, follow bool, tail int) error {
	stdout, stderr := io.Writer(os.Stdout), io.Writer(os.Stderr)
	if !follow || tail >= 0 {
		out, err := printLog(ctx, agent, c.GetSandbox(), "stdout", tail, stdout)
		if err != nil {
			return err
		}
		errors, err := printLog(ctx, agent, c.GetSandbox(), "stderr", tail, stderr)
		if err != nil || !follow {
			return err
		}
		stdout, stderr = &skipper{out, stdout}, &skipper{errors, stderr}
	}
	stream, err := agent.Stream(ctx, &v1.Call{Type: v1.Call_ATTACH_CONTAINER_OUTPUT.Enum(),
		AttachContainerOutput: &v1.Call_AttachContainerOutput{ContainerId: c.GetContainerId(), FromBeginning: proto.Bool(true)}})
	if err != nil {
		return err
	}
	defer stream.Close()
	return copyOutputs(stream, stdout, stderr)
}

// printLog prints the last lines of an output, or all, and returns how many bytes there were
// of it.
func printLog(ctx context.Context, agent *client.Client, sandbox, name string, tail int, to io.Writer) (int64, error) {
	files, size, err := logFiles(ctx, agent, sandbox, name)
	if err != nil {
		return 0, err
	}
	whole := io.NewSectionReader(files, 0, size)
	from := int64(0)
	if tail >= 0 {
		if from, err = lastLines(whole, size, tail); err != nil {
			return 0, err
		}
	}
	_, err = io.Copy(to, io.NewSectionReader(whole, from, size-from))
	return size, err
}

// lastLines returns where the last lines begin. The last one need not be whole.
func lastLines(file io.ReaderAt, size int64, lines int) (int64, error) {
	if lines == 0 {
		return size, nil
	}
	buffer := make([]byte, logBlock)
	for end := size; end > 0; {
		begin := max(0, end-logBlock)
		block := buffer[:end-begin]
		if _, err := file.ReadAt(block, begin); err != nil && err != io.EOF {
			return 0, err
		}
		for i := len(block) - 1; i >= 0; i-- {
			if block[i] != '\n' || begin+int64(i) == size-1 {
				continue
			}
			if lines--; lines == 0 {
				return begin + int64(i) + 1, nil
			}
		}
		end = begin
	}
	return 0, nil
}

// skipper leaves out the first bytes, which were written already.
type skipper struct {
	left int64
	to   io.Writer
}

func (s *skipper) Write(p []byte) (int, error) {
	skipped := min(s.left, int64(len(p)))
	s.left -= skipped
	n, err := s.to.Write(p[skipped:])
	return n + int(skipped), err
}

// copyOutputs copies a stream to its end.
func copyOutputs(stream *client.Stream, stdout, stderr io.Writer) error {
	for {
		m := &v1.ProcessIO{}
		err := stream.Next(m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch m.GetData().GetType() {
		case v1.ProcessIO_Data_STDOUT:
			_, err = stdout.Write(m.GetData().GetData())
		case v1.ProcessIO_Data_STDERR:
			_, err = stderr.Write(m.GetData().GetData())
		}
		if err != nil {
			return err
		}
	}
}
