//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"berth/provisioner/store"
)

// explained is what `berth pull --explain` prints.
type explained struct {
	store.Record
	Pull *store.PullReport `json:"pull"` // null: the image was there
}

func (e explained) print() error {
	fmt.Println(e.ID)
	if e.Pull == nil {
		return printLine(e.Reference + " was there, nothing was fetched")
	}
	if err := printLayers(e.Pull.Layers); err != nil {
		return err
	}
	var parts []string
	for _, s := range e.Pull.Stages {
		parts = append(parts, fmt.Sprintf("%s %s", s.Stage, humanTime(s.Time)))
	}
	layers, bytes := e.Pull.Fetched()
	_, err := fmt.Printf("%s: %s = %s; slowest: %s\n%d of %d layers were fetched, %s, %s/s\n",
		e.Pull.Image, strings.Join(parts, " + "), humanTime(e.Pull.Total), e.Pull.Slowest().Stage,
		layers, len(e.Pull.Layers), humanBytes(bytes), humanBytes(e.Pull.Rate()))
	return err
}

// printLayers prints a line for each layer, under its blob's digest as the progress does.
func printLayers(layers []store.LayerReport) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if at := slices.IndexFunc(layers, func(l store.LayerReport) bool { return l.Fetched }); at >= 0 {
		fmt.Fprint(table, "LAYER\tSIZE\t")
		for _, s := range layers[at].Stages {
			fmt.Fprint(table, strings.ToUpper(string(s.Stage)), "\t")
		}
		fmt.Fprintln(table, "SLOWEST\tRATE")
	}
	for _, l := range layers {
		fmt.Fprint(table, short(l.Blob), "\t", humanBytes(l.Size), "\t")
		for _, s := range l.Stages {
			fmt.Fprint(table, humanTime(s.Time), "\t")
		}
		if l.Fetched {
			fmt.Fprintf(table, "%s\t%s/s\n", l.Slowest().Stage, humanBytes(l.Rate()))
		} else {
			fmt.Fprintln(table, "already there")
		}
	}
	return table.Flush()
}

// humanTime prints a duration with three digits or so.
func humanTime(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	default:
		return d.Round(time.Microsecond).String()
	}
}
