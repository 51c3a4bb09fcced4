//go:build linux

package mesos

import (
	"fmt"
	"math"

	"berth/container"
	"berth/launcher/plan"
)

// terminal is the terminal that the request wants, or nil. With an image it is of the
// container's own devpts, and its console; else of the host's.
func (l *launch) terminal() (*plan.Terminal, error) {
	config := l.container.Config
	info := config.GetContainerInfo().GetTtyInfo()
	switch {
	case info == nil:
		return nil, nil
	case l.req.Terminal == nil:
		return nil, fmt.Errorf("tty_info: %w: nobody is there to hold the terminal", container.ErrNotSupported)
	}
	rows, columns := info.GetWindowSize().GetRows(), info.GetWindowSize().GetColumns()
	if rows > math.MaxUint16 || columns > math.MaxUint16 {
		return nil, fmt.Errorf("tty_info: %w: a window of %d rows and %d columns; the kernel knows at most %d of each", container.ErrInvalid, rows, columns, math.MaxUint16)
	}
	t := &plan.Terminal{Multiplexer: "/dev/pts/ptmx", Rows: uint16(rows), Columns: uint16(columns)}
	if config.GetRootfs() != "" {
		t.Console = "/dev/console"
	}
	return t, nil
}
