//go:build linux

package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/internal/testrig"
)

var update = flag.Bool("update", false, "write the manual anew: make man")

// The pages in man/ say what the help of the commands says, which they are made of.
func TestTheManual(t *testing.T) {
	testrig.RequireRoot(t) // defaults are those for root
	const dir = "../../man"
	root := command()
	pages := map[string][]byte{"berth.1": manual(root)}
	for _, c := range root.Commands() {
		pages[pageOf(c)+".1"] = manual(c)
	}
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range pages {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("man/%s is not what the commands say (%v): make man", name, err)
		}
	}
	there, err := os.ReadDir(dir)
	if err != nil || len(there) != len(pages) {
		t.Errorf("man has %d pages, of %d: make man (%v)", len(there), len(pages), err)
	}
}

// pageOf is the name of a command's page.
func pageOf(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manual is the page of a command, in the language of man(7).
func manual(c *cobra.Command) []byte {
	var p bytes.Buffer
	fmt.Fprintf(&p, ".\\\" Made of the command's help: make man\n.TH %s 1 \"\" berth \"berth manual\"\n", strings.ToUpper(roff(pageOf(c))))
	fmt.Fprintf(&p, ".SH NAME\n%s \\- %s\n", roff(pageOf(c)), roff(c.Short))
	fmt.Fprintf(&p, ".SH SYNOPSIS\n%s\n", line(c.UseLine()))
	if c.Long != "" {
		p.WriteString(".SH DESCRIPTION\n")
		prose(&p, c.Long)
	}
	if c.HasParent() {
		c.InitDefaultHelpFlag()
		own, agents := splitFlags(c)
		for _, part := range []struct {
			title string
			flags *pflag.FlagSet
		}{{"OPTIONS", own}, {"OPTIONS OF THE AGENT", agents}} {
			if part.flags.HasFlags() {
				fmt.Fprintf(&p, ".SH %s\n", part.title)
				part.flags.VisitAll(func(f *pflag.Flag) { option(&p, f) })
			}
		}
		p.WriteString(".SH SEE ALSO\n.BR berth (1)\n")
		return p.Bytes()
	}
	p.WriteString(".SH COMMANDS\n")
	for _, sub := range c.Commands() {
		fmt.Fprintf(&p, ".TP\n.BR %s (1)\n%s\n", roff(pageOf(sub)), line(sub.Short))
	}
	p.WriteString(".SH ENVIRONMENT\n" +
		"What a flag that the agent has, too, does not say is taken from the environment: that of\n.B \\-\\-work_dir\nis\n.BR BERTH_WORK_DIR ,\n" +
		"for one. Names of flags may be written with \\- or with _.\n" +
		".SH EXIT STATUS\nThat of the command of a container, 128+n for the signal n, or 125 when berth fails.\n")
	return p.Bytes()
}

// prose writes text of paragraphs, and what is indented as it is.
func prose(p *bytes.Buffer, text string) {
	for i, paragraph := range strings.Split(text, "\n\n") {
		literal := strings.HasPrefix(paragraph, " ")
		switch {
		case literal:
			p.WriteString(".PP\n.nf\n")
		case i > 0:
			p.WriteString(".PP\n")
		}
		for l := range strings.Lines(paragraph) {
			p.WriteString(line(strings.TrimSuffix(l, "\n")) + "\n")
		}
		if literal {
			p.WriteString(".fi\n")
		}
	}
}

// unsaid are the defaults that go without saying.
var unsaid = []string{"", "false", "0", "0s", "[]"}

// option writes what a flag is.
func option(p *bytes.Buffer, f *pflag.Flag) {
	argument, usage := pflag.UnquoteUsage(f)
	name := "\\fB\\-\\-" + roff(f.Name) + "\\fR"
	if f.Shorthand != "" {
		name = "\\fB\\-" + f.Shorthand + "\\fR, " + name
	}
	if argument != "" {
		name += " \\fI" + roff(argument) + "\\fR"
	}
	if !slices.Contains(unsaid, f.DefValue) {
		usage += fmt.Sprintf(" (default %s)", strings.Trim(f.DefValue, "[]"))
	}
	fmt.Fprintf(p, ".TP\n%s\n%s\n", name, line(usage))
}

// roff is text that means itself.
func roff(text string) string { return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text) }

// line is a line of text: at its beginning a dot or a quote would make it a request.
func line(text string) string {
	if text = roff(text); strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}
