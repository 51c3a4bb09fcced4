//go:build linux

package main

import (
	"context"

	"github.com/spf13/cobra"

	"berth/engine"
)

// withImages opens the stores for a command that makes no root filesystem, and closes
// them however it ends.
func withImages(cmd *cobra.Command, config *engine.Config, work func(context.Context, *engine.Images) error) error {
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	config.Log = warnings
	images, err := engine.OpenImages(ctx, *config)
	if err != nil {
		return err
	}
	defer func() { warn(images.Close()) }() // what the command has done stands
	return work(ctx, images)
}

// withEngine opens an engine, recovers what dead berth processes have left, and closes
// it however the command ends.
func withEngine(ctx context.Context, config *engine.Config, work func(*engine.Engine) error) error {
	config.Log = warnings
	e, err := engine.Open(ctx, *config)
	if err != nil {
		return err
	}
	defer func() { warn(e.Close()) }()
	warn(e.Recover(ctx)) // what others left is not this command's trouble
	return work(e)
}
