package engine

import (
	"syscall"

	"berth/isolator"
)

// ParseSignal reads a signal as a person names it: "SIGTERM", "TERM", "15", "SIGRTMIN+3".
func ParseSignal(text string) (syscall.Signal, error) { return isolator.ParseSignal(text) }
