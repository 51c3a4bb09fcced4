//go:build linux

package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"berth/engine"
)

// Flags of other programs that the page shows.
var ofOthers = []string{"data", "unix-socket", "symmetric"}

var flagInText = regexp.MustCompile("(?:^|[ `(\\[|])--([a-z][a-z0-9_-]*)")

// spelt is how a flag is written in both.
func spelt(name string) string { return strings.ReplaceAll(name, "_", "-") }

// What README.md and docs/flags.md say of flags, and which there are.
func TestTheFlagsOfThePages(t *testing.T) {
	var page []byte
	for _, path := range []string{"../../README.md", "../../docs/flags.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		page = append(page, text...)
	}
	written := map[string]bool{}
	for _, found := range flagInText.FindAllStringSubmatch(string(page), -1) {
		written[spelt(found[1])] = true
	}
	known := map[string]bool{"help": true}
	for _, c := range command().Commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[spelt(f.Name)] = true })
	}
	if len(known) < 80 || len(written) < 80 {
		t.Fatalf("%d flags, %d in the text", len(known), len(written))
	}
	for _, name := range slices.Sorted(maps.Keys(written)) {
		if !known[name] && !slices.Contains(ofOthers, name) {
			t.Errorf("a page has --%s, and no command does", name)
		}
	}
	operator := pflag.NewFlagSet("", pflag.ContinueOnError)
	config := engine.DefaultConfig()
	storeFlags(operator, &config)
	launchFlags(operator, &config)
	operator.AddFlagSet(agentCommand().Flags())
	operator.VisitAll(func(f *pflag.Flag) {
		if !written[spelt(f.Name)] {
			t.Errorf("docs/flags.md has no --%s", f.Name)
		}
	})
}
