//go:build !linux

package initproc

import (
	"errors"
	"os"
)

// unnamed returns a file without a name.
func unnamed() (*os.File, error) {
	f, err := os.CreateTemp("", "berth-plan-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
