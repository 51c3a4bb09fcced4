//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestASignalUndoesALaunch(t *testing.T) {
	signals := make(chan os.Signal, 1)
	err := launch(t.Context(), signals, func(ctx context.Context) error {
		signals <- syscall.SIGTERM
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if err == nil || err.Error() != "interrupted by terminated" {
		t.Errorf("the launch has ended with %v", err)
	}
	if len(signals) > 0 {
		t.Errorf("%v is left for a command that was not started", <-signals)
	}
}

func TestASignalThatIsTooLateForALaunchIsForTheCommand(t *testing.T) {
	signals := make(chan os.Signal, 1)
	err := launch(t.Context(), signals, func(ctx context.Context) error {
		signals <- syscall.SIGHUP
		<-ctx.Done() // the command runs already
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if len(signals) == 0 || <-signals != syscall.SIGHUP {
		t.Error("the signal is lost")
	}
}

func TestALaunchReturnsItsError(t *testing.T) {
	refused := errors.New("refused")
	if err := launch(t.Context(), make(chan os.Signal), func(context.Context) error { return refused }); err != refused {
		t.Errorf("the launch has ended with %v", err)
	}
}
