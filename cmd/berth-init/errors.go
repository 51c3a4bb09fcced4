//go:build linux

package main

import "fmt"

// The exit codes that stand for a command that was not executed.
const (
	exitFailure       = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

// step names what was tried; nil stays nil.
func step(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
