//go:build linux

package linux

import (
	"berth/container"
	"berth/launcher/initproc"
)

// Init returns the init process of a container that was forked. ErrNotFound: it has ended.
func (l *Launcher) Init(id container.ID) (pid int, err error) {
	h, err := initproc.OpenRecorded(l.Layout.Container(id).Pid())
	if err != nil {
		return 0, err
	}
	return h.Pid, h.Close()
}
