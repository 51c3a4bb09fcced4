//go:build linux

package main

import (
	"github.com/spf13/cobra"

	"berth/engine"
	"berth/image"
)

func rmiCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove images, and the layers that nothing else needs",
		Args:  cobra.MinimumNArgs(1),
	}
	config := configured(cmd, storeFlags)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the removed layers as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		images, err := engine.OpenImages(cmd.Context(), *config)
		if err != nil {
			return err
		}
		removed := []image.Digest{}
		for _, arg := range args {
			img, err := imageOf(arg, "")
			if err != nil {
				return err
			}
			layers, err := images.Remove(cmd.Context(), img)
			removed = append(removed, layers...)
			if err != nil {
				return err
			}
		}
		return printResult(asJSON, map[string]any{"layers": removed}, func() error {
			for _, id := range removed {
				if err := printLine("removed layer " + id.String()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}
