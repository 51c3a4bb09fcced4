//go:build linux && !amd64

package main

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// sendSignals has all signals written to the pipe.
func sendSignals(pipe int) error {
	caught := make(chan os.Signal, 64)
	signal.Notify(caught)
	go func() { // as long as the process
		for s := range caught {
			// Full: as many are waiting as the kernel would keep.
			_, _ = unix.Write(pipe, []byte{byte(s.(unix.Signal))})
		}
	}()
	return nil
}

// becomeWaiter is for processors whose instructions there are, see waiter.go: this process
// stays as large as it is.
func becomeWaiter(*child, *signals, *os.File) error { return errors.ErrUnsupported }
