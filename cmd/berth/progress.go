//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"berth/engine"
	"berth/image"
	"berth/provisioner/store"
)

// progress shows how a pull goes: a bar for each layer on a terminal, a line for each
// change elsewhere.
type progress struct {
	out *os.File

	mu     sync.Mutex
	bars   *mpb.Progress // nil: lines; made at the first event
	tty    bool
	layers map[image.Digest]*mpb.Bar
	told   map[image.Digest]store.Stage
}

// fetchMemory is how much the Go runtime may have in bytes before it collects all garbage that there is: decoders of
// several layers leave more of it than they use, and to collect it sooner takes no longer.
const fetchMemory = 44 << 20

// fetching has a command that may fetch layers show on stderr how that goes, and keep within
// the memory that GOMEMLIMIT says, or fetchMemory.
func fetching(config *engine.Config) *progress {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(fetchMemory)
	}
	p := &progress{
		out: os.Stderr, tty: term.IsTerminal(int(os.Stderr.Fd())),
		layers: make(map[image.Digest]*mpb.Bar), told: make(map[image.Digest]store.Stage),
	}
	config.Progress = p.event
	return p
}

// event is a store.Progress.
func (p *progress) event(e store.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tty {
		p.bar(e)
	} else {
		p.line(e)
	}
}

var stageNames = map[store.Stage]string{
	store.Waiting:  "waiting",
	store.Fetching: "fetching",
	store.Unpacked: "unpacked",
	store.Present:  "already there",
}

func (p *progress) line(e store.Event) {
	if stage, ok := p.told[e.Layer]; ok && stage == e.Stage || e.Stage == store.Waiting {
		return
	}
	p.told[e.Layer] = e.Stage
	fmt.Fprintf(p.out, "%s: layer %s: %s (%s)\n", e.Image, short(e.Layer), stageNames[e.Stage], humanBytes(e.Total))
}

func (p *progress) bar(e store.Event) {
	if p.bars == nil {
		p.bars = mpb.New(mpb.WithOutput(p.out), mpb.WithWidth(40))
	}
	bar, ok := p.layers[e.Layer]
	if !ok {
		bar = p.bars.AddBar(e.Total,
			mpb.PrependDecorators(decor.Name(short(e.Layer)+" ")),
			mpb.AppendDecorators(decor.OnComplete(decor.CountersKibiByte("% .1f / % .1f"), "done")))
		p.layers[e.Layer] = bar
	}
	switch e.Stage {
	case store.Fetching:
		// The last byte is shown when the layer is unpacked: a full bar is a whole layer.
		bar.SetCurrent(min(e.Done, e.Total-1))
	case store.Unpacked, store.Present:
		bar.SetTotal(e.Total, true)
	}
}

// done ends the display. Bars of layers that were not finished stay as they are.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bars == nil {
		return
	}
	for _, bar := range p.layers {
		bar.Abort(false)
	}
	p.bars.Wait()
}

// short is the beginning of a digest, as people know images by.
func short(d image.Digest) string {
	hex := d.Hex()
	return hex[:min(12, len(hex))]
}

// humanBytes prints a size with three digits.
func humanBytes(n int64) string {
	value, unit := float64(n), 0
	for ; value >= 1000 && unit < 4; unit++ {
		value /= 1000
	}
	return strings.Replace(fmt.Sprintf("%.3g %s", value, [...]string{"B", "kB", "MB", "GB", "TB"}[unit]), "e+03", "000", 1)
}
