//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"berth/container"
	"berth/engine"
	"berth/provisioner/store"
)

func loadCommand() *cobra.Command {
	var input string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "load [-i FILE]",
		Short: "Get the images of an archive into the store, under their names",
		Args:  cobra.NoArgs,
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().StringVarP(&input, "input", "i", "-", "an archive of `berth save`, docker save or podman save, also compressed; - is the standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the records as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if input == "-" && term.IsTerminal(int(os.Stdin.Fd())) {
			return fmt.Errorf("%w: an archive is not read from a terminal: name a file with -i FILE", container.ErrInvalid)
		}
		progress := fetching(config)
		return withImages(cmd, config, func(ctx context.Context, images *engine.Images) error {
			if err := images.Layers.Recover(ctx); err != nil {
				return err
			}
			loaded, err := images.Load(ctx, input)
			progress.done()
			if loaded == nil {
				return err
			}
			return errors.Join(printResult(asJSON, loaded, func() error { return printLoaded(loaded) }), err)
		})
	}
	return cmd
}

func printLoaded(loaded []store.Record) error {
	for _, rec := range loaded {
		if err := printLine(recordName(rec) + " " + rec.ID.String()); err != nil {
			return err
		}
	}
	return nil
}
