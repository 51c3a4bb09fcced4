//go:build linux

package linux

import "berth/container"

// Init returns the init process of a container that was forked. ErrNotFound: it has ended.
func (l *Launcher) Init(id container.ID) (pid int, err error) {
	pid, pidFD, err := l.openRecorded(id)
	if err != nil {
		return 0, err
	}
	return pid, pidFD.Close()
}
