//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"berth/container"
	"berth/engine"
)

func saveCommand() *cobra.Command {
	var output, format, platform string
	cmd := &cobra.Command{
		Use:   "save IMAGE... -o FILE",
		Short: "Write images of the store to an archive that other tools and `berth load` read",
		Args:  cobra.MinimumNArgs(1),
	}
	config := configured(cmd, storeFlags)
	completeImages(cmd, config)
	cmd.Flags().StringVarP(&output, "output", "o", "", "the archive; - is the standard output")
	cmd.Flags().StringVar(&format, "format", engine.ArchiveFormats()[0], strings.Join(engine.ArchiveFormats(), " or "))
	cmd.Flags().StringVar(&platform, "platform", "", "OS/ARCHITECTURE[/VARIANT] that the images were pulled for")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case output == "":
			return fmt.Errorf("%w: name the archive with -o FILE, or -o - for the standard output", container.ErrInvalid)
		case output == "-" && term.IsTerminal(int(os.Stdout.Fd())):
			return fmt.Errorf("%w: an archive is not written to a terminal: name a file with -o FILE", container.ErrInvalid)
		}
		images, err := imagesOf(args)
		if err != nil {
			return err
		}
		for _, img := range images {
			if platform != "" {
				img.Platform = proto.String(platform)
			}
		}
		return withImages(cmd, config, func(ctx context.Context, all *engine.Images) error {
			return all.Save(ctx, output, format, images...)
		})
	}
	return cmd
}
