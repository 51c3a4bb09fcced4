//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/launcher/plan"
)

// handed are mounts that berth has made, in the order of the plan; nil: there are none.
type handed struct {
	mounts []*mount.Detached
	all    bool // not only those of the parent
}

// receive takes the mounts that were handed over.
func receive(sources *os.File, count int, all bool) (h *handed, err error) {
	if count == 0 {
		return nil, nil
	}
	h = &handed{all: all}
	defer func() {
		if err != nil {
			err = errors.Join(step("receive the sources of mounts", err), h.close())
		}
	}()
	control := make([]byte, unix.CmsgSpace(4*plan.MaxHanded))
	for len(h.mounts) < count {
		var data [1]byte
		n, controlled, _, _, err := unix.Recvmsg(int(sources.Fd()), data[:], control, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return h, err
		case n == 0:
			return h, fmt.Errorf("%d have come, of %d", len(h.mounts), count)
		}
		if err := h.take(control[:controlled]); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (h *handed) take(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			h.mounts = append(h.mounts, mount.Received(fd))
		}
	}
	return nil
}

// next returns the next mount, which is then the caller's; nil: berth does not make those that
// are not the parent's.
func (h *handed) next(ofParent bool) (*mount.Detached, error) {
	if !ofParent && (h == nil || !h.all) {
		return nil, nil
	}
	if h == nil || len(h.mounts) == 0 {
		return nil, errors.New("the plan has more mounts than were handed over")
	}
	d := h.mounts[0]
	h.mounts = h.mounts[1:]
	return d, nil
}

func (h *handed) close() (err error) {
	if h == nil {
		return nil
	}
	for _, d := range h.mounts {
		err = errors.Join(err, d.Close())
	}
	h.mounts = nil
	return err
}
