package follow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Hub tells readers that files have changed. All of them share one inotify instance, of
// which a user has few; it is there while somebody reads. The zero value is ready.
type Hub struct {
	mu      sync.Mutex
	notify  *os.File
	watches map[int32][]chan struct{} // by the watch's number
}

// watch has the channel get a token, unless there is one in it, after each event of the
// file that fd is open on.
func (h *Hub) watch(fd int, events uint32, wake chan struct{}) (number int32, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.notify == nil {
		if err := h.open(); err != nil {
			return 0, err
		}
	}
	defer func() { err = errors.Join(err, h.closeUnused()) }()
	raw, err := h.notify.SyscallConn()
	if err != nil {
		return 0, err
	}
	var added int
	// By the descriptor: its name may be another's by now.
	controlErr := raw.Control(func(notify uintptr) {
		added, err = unix.InotifyAddWatch(int(notify), "/proc/self/fd/"+strconv.Itoa(fd), events)
	})
	if err := errors.Join(controlErr, err); err != nil {
		return 0, fmt.Errorf("inotify_add_watch: %w: %w: is fs.inotify.max_user_watches large enough?", container.ErrUnavailable, err)
	}
	number = int32(added)
	h.watches[number] = append(h.watches[number], wake)
	return number, nil
}

// open begins to listen. The caller holds mu.
func (h *Hub) open() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("inotify_init: %w: %w: is fs.inotify.max_user_instances large enough?", container.ErrUnavailable, err)
	}
	h.notify, h.watches = os.NewFile(uintptr(fd), "inotify"), make(map[int32][]chan struct{})
	go h.listen(h.notify) // ends when that is closed
	return nil
}

// unwatch undoes one watch.
func (h *Hub) unwatch(number int32, wake chan struct{}) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	wakes := h.watches[number]
	i := slices.Index(wakes, wake)
	if i < 0 {
		return nil
	}
	if h.watches[number] = slices.Delete(wakes, i, i+1); len(h.watches[number]) > 0 {
		return nil
	}
	delete(h.watches, number)
	raw, err := h.notify.SyscallConn()
	if err != nil {
		return err
	}
	// EINVAL: it has gone with its file.
	controlErr := raw.Control(func(notify uintptr) { _, _ = unix.InotifyRmWatch(int(notify), uint32(number)) })
	return errors.Join(controlErr, h.closeUnused())
}

// closeUnused ends the listening when nobody needs it. The caller holds mu.
func (h *Hub) closeUnused() error {
	if len(h.watches) > 0 {
		return nil
	}
	notify := h.notify
	h.notify = nil
	return notify.Close()
}

// listen hands out events until the instance is closed.
func (h *Hub) listen(notify *os.File) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := notify.Read(buffer)
		if err != nil {
			return
		}
		h.mu.Lock()
		for events := buffer[:n]; len(events) >= unix.SizeofInotifyEvent && h.notify == notify; {
			number := int32(binary.NativeEndian.Uint32(events))
			h.wake(number)
			events = events[unix.SizeofInotifyEvent+binary.NativeEndian.Uint32(events[12:]):]
		}
		h.mu.Unlock()
	}
}

// wake wakes those who watch a file; -1, when events were lost, everybody. The caller
// holds mu.
func (h *Hub) wake(number int32) {
	if number == -1 {
		for number := range h.watches {
			h.wake(number)
		}
	}
	for _, wake := range h.watches[number] {
		select {
		case wake <- struct{}{}:
		default: // it has not seen the last one yet
		}
	}
}
