//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// printResult prints a result as JSON, or as text prints it.
func printResult(asJSON bool, result any, text func() error) error {
	if !asJSON {
		return text()
	}
	encode := json.NewEncoder(os.Stdout)
	encode.SetIndent("", "  ")
	encode.SetEscapeHTML(false)
	return encode.Encode(result)
}

func printLine(line string) error {
	_, err := fmt.Println(line)
	return err
}

// interruptible is a context that ends at the first Ctrl-C, with what was begun undone;
// the second one ends berth.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
