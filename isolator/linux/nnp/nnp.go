// Package nnp is the isolator linux/nnp: no program of any container gets more privileges
// than the container's command has, by set-user-id, by file capabilities or otherwise.
package nnp

import (
	"context"

	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
	return &isolator.LaunchInfo{Confinement: isolator.Confinement{NoNewPrivileges: true}}, nil
}

// Cleanup implements isolator.Isolator: it goes with the processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
