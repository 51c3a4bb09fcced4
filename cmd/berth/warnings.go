//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// warn prints an error that does not stop the command.
func warn(err error) {
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") { // joined errors have one each
		_ = complain(yellow, "berth: warning:", line)
	}
}

// warnings is the log of a command in the foreground: it has a line for each thing that
// a person should know of, and nothing else.
var warnings = slog.New(warningLines{})

type warningLines struct {
	attributes string
}

func (warningLines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (w warningLines) Handle(_ context.Context, r slog.Record) error {
	line := w
	r.Attrs(func(a slog.Attr) bool {
		line = line.with(a)
		return true
	})
	return complain(yellow, "berth: warning:", r.Message+line.attributes)
}

func (w warningLines) WithAttrs(attributes []slog.Attr) slog.Handler {
	for _, a := range attributes {
		w = w.with(a)
	}
	return w
}

func (w warningLines) with(a slog.Attr) warningLines {
	w.attributes += fmt.Sprintf(": %s %v", a.Key, a.Value)
	return w
}

func (w warningLines) WithGroup(string) slog.Handler { return w }
