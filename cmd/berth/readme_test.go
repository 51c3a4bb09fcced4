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

// flagsIn returns the flags that pages name.
func flagsIn(t *testing.T, pages ...string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, path := range pages {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range flagInText.FindAllStringSubmatch(string(page), -1) {
			names[spelt(found[1])] = true
		}
	}
	return names
}

// What README.md, docs/flags.md and docs/isolators.md say of flags, and which there are.
func TestTheFlagsOfThePages(t *testing.T) {
	written, explained := flagsIn(t, "../../README.md", "../../docs/flags.md"), flagsIn(t, "../../docs/isolators.md")
	known := map[string]bool{"help": true}
	for _, c := range command().Commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[spelt(f.Name)] = true })
	}
	if len(known) < 80 || len(written) < 80 || len(explained) < 40 {
		t.Fatalf("%d flags, %d and %d in the text", len(known), len(written), len(explained))
	}
	for _, names := range []map[string]bool{written, explained} {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if !known[name] && !slices.Contains(ofOthers, name) {
				t.Errorf("a page has --%s, and no command does", name)
			}
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
