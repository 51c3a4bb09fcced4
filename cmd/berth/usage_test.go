//go:build linux

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"berth/container"
)

// What a newcomer mistypes is answered with what was probably meant, and where to read on.
func TestWhatIsMistyped(t *testing.T) {
	for typed, want := range map[string]string{
		"rnu":                     `unknown command "rnu"; did you mean run?: invalid: see ` + "`berth --help`",
		"frobnicate --x":          `unknown command "frobnicate": invalid: see ` + "`berth --help`",
		"help rnu":                "did you mean run?",
		"--frobnicate":            "for none is named",
		"ps --al":                 "did you mean --all?: invalid: see `berth ps --help`",
		"ps --jsno":               "did you mean --json?",
		"version --jsn":           "did you mean --json?",
		"agent --htp-address x":   "did you mean --http_address?",
		"run --netwrok x busybox": "did you mean --network?: invalid: see `berth run --help`",
		"ps --frobnicate":         "unknown flag: --frobnicate: invalid: see",
		"attach":                  "attach: no argument: invalid: it is `berth attach ID [flags]`",
		"ps extra":                `ps: the arguments ["extra"]: invalid: it is ` + "`berth ps [flags]`",
	} {
		args := strings.Fields(typed)
		root := command(args...)
		root.SetArgs(args)
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v; want %q", typed, err, want)
		}
	}
}

func TestTheHelpHasEveryCommandAndFlag(t *testing.T) {
	shown := func(args ...string) string {
		t.Helper()
		var text bytes.Buffer
		root := command(args...)
		root.SetArgs(args)
		root.SetOut(&text)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return text.String()
	}
	all := shown()
	for _, c := range commands {
		if !strings.Contains(all, "\n  "+c.name+" ") {
			t.Errorf("the help does not list %s:\n%s", c.name, all)
		}
		help := shown(c.name, "--help")
		if again := shown("help", c.name); again != help {
			t.Errorf("berth help %s says %q, with --help it says %q", c.name, again, help)
		}
		own, agents := splitFlags(c.make())
		for _, name := range append(flagNames(own), flagNames(agents)...) {
			if strings.Count(help, "--"+name+" ") == 0 {
				t.Errorf("the help of %s does not list --%s", c.name, name)
			}
		}
	}
}

func flagNames(f *pflag.FlagSet) (names []string) {
	f.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	return names
}
