//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"berth/agent/client"
	"berth/container"
	"berth/internal/archive"
)

func cpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cp SRC DST",
		Short: "Copy files between a container that runs and the host",
		Long: `Copy a file, or a directory with all that is in it, between a container that runs and the
host. One of SRC and DST is ID:PATH, the other a path of the host, which has a slash before
its first colon if it has one. If DST is a directory the copy is made in it, else as it.

Links are copied, not followed. Files become those of root, in a container that has user
ids of its own those of its root. Devices, FIFOs and sockets are left out, and so are
set-user-id and set-group-id.`,
		Args: cobra.ExactArgs(2),
	}
	return asking(cmd, func(ctx context.Context, agent *client.Client, args []string) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		from, source, out := inContainer(args[0])
		to, destination, in := inContainer(args[1])
		if out == in {
			return fmt.Errorf("cp %s %s: %w: one of the two is ID:PATH, the other a path of the host", args[0], args[1], container.ErrInvalid)
		}
		id, err := findID(ctx, agent, from+to)
		if err != nil {
			return err
		}
		if out {
			return copyOut(ctx, agent, idText(id), source, destination)
		}
		return copyIn(ctx, agent, source, idText(id), destination)
	})
}

// inContainer takes ID:PATH apart.
func inContainer(arg string) (id, path string, ok bool) {
	id, path, ok = strings.Cut(arg, ":")
	if !ok || id == "" || strings.Contains(id, "/") {
		return "", arg, false
	}
	return id, path, true
}

// copyOut copies out of a container: what is in there cannot choose where it goes.
func copyOut(ctx context.Context, agent *client.Client, id, source, destination string) error {
	as := ""
	if info, err := os.Stat(destination); err != nil || !info.IsDir() {
		destination, as = filepath.Dir(destination), filepath.Base(destination)
	}
	dir, err := os.OpenRoot(destination)
	if err != nil {
		return err
	}
	defer dir.Close()
	files, err := agent.ReadFiles(ctx, id, source)
	if err != nil {
		return err
	}
	return errors.Join(archive.Unpack(ctx, files, dir, as), files.Close())
}

func copyIn(ctx context.Context, agent *client.Client, source, id, destination string) error {
	source, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(filepath.Dir(source))
	if err != nil {
		return err
	}
	defer dir.Close()
	base := filepath.Base(source)
	if _, err := dir.Lstat(base); err != nil {
		return err
	}
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := archive.Pack(ctx, writer, dir, base, base)
		writer.CloseWithError(err)
		packed <- err
	}()
	err = agent.WriteFiles(ctx, id, destination, reader)
	reader.CloseWithError(errEnough)
	if failed := <-packed; failed != nil && !errors.Is(failed, errEnough) && !errors.Is(failed, io.ErrClosedPipe) {
		return failed
	}
	return err
}

// errEnough: the agent has answered already.
var errEnough = errors.New("the agent reads no more")
