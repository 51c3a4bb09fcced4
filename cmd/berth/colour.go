//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"text/tabwriter"

	"golang.org/x/term"
)

// colour is how a terminal shows something (ECMA-48, select graphic rendition). All have as
// many characters, so that the cells of a column that are all painted stay aligned.
type colour string

const (
	plain  colour = "00"
	bold   colour = "01"
	faint  colour = "02"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	cyan   colour = "36"
)

// paint has a text shown in a colour where out is a terminal that knows colours, unless the
// user wants none (https://no-color.org).
func paint(out *os.File, c colour, text string) string {
	if !coloured(out) {
		return text
	}
	return begin(c) + text + end
}

func begin(c colour) string { return "\x1b[" + string(c) + "m" }

var end = begin(plain)

func coloured(out *os.File) bool {
	known := os.Getenv("TERM") != "" && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
	switch out {
	case os.Stdout:
		return known && stdoutIsTerminal()
	case os.Stderr:
		return known && stderrIsTerminal()
	}
	return false
}

var (
	stdoutIsTerminal = sync.OnceValue(func() bool { return term.IsTerminal(int(os.Stdout.Fd())) })
	stderrIsTerminal = sync.OnceValue(func() bool { return term.IsTerminal(int(os.Stderr.Fd())) })
)

// table has its columns aligned on standard output, below a header.
type table struct {
	*tabwriter.Writer
	text *bytes.Buffer
}

// newTable begins one. The header has a tab between two columns.
func newTable(header string) table {
	text := &bytes.Buffer{}
	t := table{tabwriter.NewWriter(text, 0, 0, 3, ' ', 0), text}
	fmt.Fprintln(t, header)
	return t
}

// Flush prints the table, with the header in bold.
func (t table) Flush() error {
	if err := t.Writer.Flush(); err != nil {
		return err
	}
	header, rows, _ := strings.Cut(t.text.String(), "\n")
	// Where a cell of the header is painted, it ends bold.
	header = paint(os.Stdout, bold, strings.ReplaceAll(header, end, begin(bold)))
	_, err := fmt.Print(header, "\n", rows)
	return err
}

// complain prints a line about something that is wrong.
func complain(c colour, what, text string) error {
	_, err := fmt.Fprintf(os.Stderr, "%s %s\n", paint(os.Stderr, c, what), text)
	return err
}
