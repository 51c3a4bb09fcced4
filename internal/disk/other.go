//go:build !linux

package disk

import "syscall"

// Syncfs is Linux only.
func Syncfs(*File) error { return syscall.ENOTSUP }
