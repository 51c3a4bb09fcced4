//go:build linux && !amd64

package calls

import "syscall"

// sharesMemory: there is no assembly file for this processor.
const sharesMemory = false

func (l *List) forkSharing(*cloneArgs, *int32, *outcome) (child uintptr, errno syscall.Errno) {
	return 0, syscall.ENOSYS
}
