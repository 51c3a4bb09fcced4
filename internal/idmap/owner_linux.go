package idmap

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"berth/container"
)

// AsOwner calls do on a thread whose files are those of the user and the group 0 of a
// range. What overlayfs makes by itself it makes as who mounted it, and in an idmapped
// layer only ids of the range can own anything.
func AsOwner(ids container.IDRange, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end; while it is kept, another goroutine has another one.
			done <- AsOwner(ids, do)
			runtime.UnlockOSThread()
			return
		}
		err := own(int(ids.Start))
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

func own(id int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var capabilities [2]unix.CapUserData
	if err := unix.Capget(&header, &capabilities[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	// They return the id from before, and no error.
	_ = unix.Setfsgid(id)
	_ = unix.Setfsuid(id)
	if now, _ := unix.SetfsuidRetUid(-1); now != id {
		return fmt.Errorf("setfsuid %d: %w", id, unix.EPERM)
	}
	// With its user the thread has lost the capabilities for files.
	if err := unix.Capset(&header, &capabilities[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	return nil
}
