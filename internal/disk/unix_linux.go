package disk

import (
	"golang.org/x/sys/unix"
)

// The system calls of the same names. Their errors are errnos.

// Openat is unix.Openat.
func Openat(dir int, path string, flags int, mode uint32) (fd int, err error) {
	err = do("open", path, func() error {
		fd, err = unix.Openat(dir, path, flags, mode)
		return err
	})
	return fd, err
}

// Openat2 also tries again when a rename elsewhere on the host has kept the kernel
// from telling whether the path stays beneath dir (EAGAIN).
func Openat2(dir int, path string, how *unix.OpenHow) (fd int, err error) {
	err = do("open", path, func() error {
		for {
			if fd, err = unix.Openat2(dir, path, how); err != unix.EAGAIN {
				return err
			}
		}
	})
	return fd, err
}

// Fstatat is unix.Fstatat.
func Fstatat(dir int, path string, st *unix.Stat_t, flags int) error {
	return do("stat", path, func() error { return unix.Fstatat(dir, path, st, flags) })
}

// Close closes fd even if the interceptor has another outcome.
func Close(fd int) error {
	err := before("close", "")
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err == unix.EINTR { // closed nevertheless
		return nil
	}
	return err
}

// Fstatfs is unix.Fstatfs.
func Fstatfs(fd int, st *unix.Statfs_t) error {
	return do("statfs", "", func() error { return unix.Fstatfs(fd, st) })
}

// Mkdirat is unix.Mkdirat.
func Mkdirat(dir int, path string, mode uint32) error {
	return do("mkdir", path, func() error { return unix.Mkdirat(dir, path, mode) })
}

// Mknodat is unix.Mknodat.
func Mknodat(dir int, path string, mode uint32, dev int) error {
	return do("mknod", path, func() error { return unix.Mknodat(dir, path, mode, dev) })
}

// Symlinkat is unix.Symlinkat.
func Symlinkat(target string, dir int, path string) error {
	return do("symlink", path, func() error { return unix.Symlinkat(target, dir, path) })
}

// Linkat is unix.Linkat.
func Linkat(fromDir int, from string, dir int, path string, flags int) error {
	return do("link", path, func() error { return unix.Linkat(fromDir, from, dir, path, flags) })
}

// Renameat2 is unix.Renameat2.
func Renameat2(fromDir int, from string, dir int, path string, flags uint) error {
	return do("rename", path, func() error { return unix.Renameat2(fromDir, from, dir, path, flags) })
}

// Unlinkat is unix.Unlinkat.
func Unlinkat(dir int, path string, flags int) error {
	return do("remove", path, func() error { return unix.Unlinkat(dir, path, flags) })
}

// Fchownat is unix.Fchownat.
func Fchownat(dir int, path string, uid, gid, flags int) error {
	return do("chown", path, func() error { return unix.Fchownat(dir, path, uid, gid, flags) })
}

// Fchmodat is unix.Fchmodat.
func Fchmodat(dir int, path string, mode uint32, flags int) error {
	return do("chmod", path, func() error { return unix.Fchmodat(dir, path, mode, flags) })
}

// UtimesNanoAt is unix.UtimesNanoAt.
func UtimesNanoAt(dir int, path string, times []unix.Timespec, flags int) error {
	return do("utimensat", path, func() error { return unix.UtimesNanoAt(dir, path, times, flags) })
}

// Lsetxattr is unix.Lsetxattr.
func Lsetxattr(path, name string, value []byte, flags int) error {
	return do("setxattr", path, func() error { return unix.Lsetxattr(path, name, value, flags) })
}

// Lremovexattr is unix.Lremovexattr.
func Lremovexattr(path, name string) error {
	return do("removexattr", path, func() error { return unix.Lremovexattr(path, name) })
}

// Pwrite may write less than all of p, like the system call.
func Pwrite(fd int, p []byte, offset int64) (n int, err error) {
	err = do("write", "", func() error {
		n, err = unix.Pwrite(fd, p, offset)
		return err
	})
	if err == ErrShort {
		return unix.Pwrite(fd, p[:(len(p)+1)/2], offset)
	}
	return n, err
}

// Ftruncate is unix.Ftruncate.
func Ftruncate(fd int, size int64) error {
	return do("truncate", "", func() error { return unix.Ftruncate(fd, size) })
}

// CopyFileRange is unix.CopyFileRange.
func CopyFileRange(from int, fromOffset *int64, to int, toOffset *int64, size, flags int) (n int, err error) {
	err = do("write", "", func() error {
		n, err = unix.CopyFileRange(from, fromOffset, to, toOffset, size, flags)
		return err
	})
	return n, err
}

// IoctlFileClone is unix.IoctlFileClone.
func IoctlFileClone(to, from int) error {
	return do("clone", "", func() error { return unix.IoctlFileClone(to, from) })
}

// Syncfs writes all that the file system of f has in memory, and returns every
// write-back error since f was opened (Linux 5.8).
func Syncfs(f *File) error {
	return do("syncfs", f.Name(), func() error { return unix.Syncfs(int(f.Fd())) })
}

// StartWriteback has the kernel begin to write what it has in memory of a part of a file, and
// does not wait for it. It proves nothing, and a write-back error is told by the next sync.
func StartWriteback(f *File, offset, length int64) error {
	return do("sync_file_range", f.Name(), func() error {
		return unix.SyncFileRange(int(f.Fd()), offset, length, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// FsconfigCreate is unix.FsconfigCreate.
func FsconfigCreate(fd int) error {
	return do("mount", "", func() error { return unix.FsconfigCreate(fd) })
}

// Mount is unix.Mount.
func Mount(source, target, fstype string, flags uintptr, data string) error {
	return do("mount", target, func() error { return unix.Mount(source, target, fstype, flags, data) })
}

// OpenTree is unix.OpenTree.
func OpenTree(dir int, path string, flags uint) (fd int, err error) {
	err = do("open_tree", path, func() error {
		fd, err = unix.OpenTree(dir, path, flags)
		return err
	})
	return fd, err
}

// MoveMount is unix.MoveMount.
func MoveMount(fromDir int, from string, dir int, path string, flags int) error {
	return do("move_mount", path, func() error { return unix.MoveMount(fromDir, from, dir, path, flags) })
}

// MountSetattr is unix.MountSetattr.
func MountSetattr(dir int, path string, flags uint, attr *unix.MountAttr) error {
	return do("mount_setattr", path, func() error { return unix.MountSetattr(dir, path, flags, attr) })
}

// Unmount is unix.Unmount.
func Unmount(target string, flags int) error {
	return do("umount", target, func() error { return unix.Unmount(target, flags) })
}

// Fchown is unix.Fchown.
func Fchown(fd, uid, gid int) error {
	return do("chown", "", func() error { return unix.Fchown(fd, uid, gid) })
}

// Fchmod is unix.Fchmod.
func Fchmod(fd int, mode uint32) error {
	return do("chmod", "", func() error { return unix.Fchmod(fd, mode) })
}

// Chmod is unix.Chmod.
func Chmod(path string, mode uint32) error {
	return do("chmod", path, func() error { return unix.Chmod(path, mode) })
}

// Chown is unix.Chown.
func Chown(path string, uid, gid int) error {
	return do("chown", path, func() error { return unix.Chown(path, uid, gid) })
}

// Setxattr is unix.Setxattr.
func Setxattr(path, name string, value []byte, flags int) error {
	return do("setxattr", path, func() error { return unix.Setxattr(path, name, value, flags) })
}

// Fsetxattr is unix.Fsetxattr.
func Fsetxattr(fd int, name string, value []byte, flags int) error {
	return do("setxattr", "", func() error { return unix.Fsetxattr(fd, name, value, flags) })
}

// Removexattr is unix.Removexattr.
func Removexattr(path, name string) error {
	return do("removexattr", path, func() error { return unix.Removexattr(path, name) })
}

// Fremovexattr is unix.Fremovexattr.
func Fremovexattr(fd int, name string) error {
	return do("removexattr", "", func() error { return unix.Fremovexattr(fd, name) })
}

// Llistxattr is unix.Llistxattr.
func Llistxattr(path string, list []byte) (n int, err error) {
	err = do("listxattr", path, func() error {
		n, err = unix.Llistxattr(path, list)
		return err
	})
	return n, err
}

// Flistxattr is unix.Flistxattr.
func Flistxattr(fd int, list []byte) (n int, err error) {
	err = do("listxattr", "", func() error {
		n, err = unix.Flistxattr(fd, list)
		return err
	})
	return n, err
}

// Lgetxattr is unix.Lgetxattr.
func Lgetxattr(path, name string, value []byte) (n int, err error) {
	err = do("getxattr", path, func() error {
		n, err = unix.Lgetxattr(path, name, value)
		return err
	})
	return n, err
}

// Fgetxattr is unix.Fgetxattr.
func Fgetxattr(fd int, name string, value []byte) (n int, err error) {
	err = do("getxattr", "", func() error {
		n, err = unix.Fgetxattr(fd, name, value)
		return err
	})
	return n, err
}

// Readlinkat is unix.Readlinkat.
func Readlinkat(dir int, path string, target []byte) (n int, err error) {
	err = do("readlink", path, func() error {
		n, err = unix.Readlinkat(dir, path, target)
		return err
	})
	return n, err
}

// ReadDirent is getdents64(2).
func ReadDirent(fd int, entries []byte) (n int, err error) {
	err = do("list", "", func() error {
		n, err = unix.ReadDirent(fd, entries)
		return err
	})
	return n, err
}

// Pread is unix.Pread.
func Pread(fd int, p []byte, offset int64) (n int, err error) {
	err = do("read", "", func() error {
		n, err = unix.Pread(fd, p, offset)
		return err
	})
	return n, err
}

// Seek is unix.Seek.
func Seek(fd int, offset int64, whence int) (at int64, err error) {
	err = do("seek", "", func() error {
		at, err = unix.Seek(fd, offset, whence)
		return err
	})
	return at, err
}

// Flags is FS_IOC_GETFLAGS of ioctl_iflags(2).
func Flags(fd int) (flags uint32, err error) {
	err = do("get flags", "", func() error {
		flags, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		return err
	})
	return flags, err
}

// SetFlags is FS_IOC_SETFLAGS.
func SetFlags(fd int, flags uint32) error {
	return do("set flags", "", func() error { return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags)) })
}

// Fsopen is unix.Fsopen.
func Fsopen(fstype string, flags int) (fd int, err error) {
	err = do("fsopen", fstype, func() error {
		fd, err = unix.Fsopen(fstype, flags)
		return err
	})
	return fd, err
}

// FsconfigSetFlag is unix.FsconfigSetFlag.
func FsconfigSetFlag(fd int, key string) error {
	return do("fsconfig", key, func() error { return unix.FsconfigSetFlag(fd, key) })
}

// FsconfigSetString is unix.FsconfigSetString.
func FsconfigSetString(fd int, key, value string) error {
	return do("fsconfig", value, func() error { return unix.FsconfigSetString(fd, key, value) })
}

// FsconfigSetFd is unix.FsconfigSetFd.
func FsconfigSetFd(fd int, key string, value int) error {
	return do("fsconfig", key, func() error { return unix.FsconfigSetFd(fd, key, value) })
}

// Fsmount is unix.Fsmount.
func Fsmount(fd, flags, attr int) (mount int, err error) {
	err = do("fsmount", "", func() error {
		mount, err = unix.Fsmount(fd, flags, attr)
		return err
	})
	return mount, err
}

// LoopGetFree is LOOP_CTL_GET_FREE of loop(4).
func LoopGetFree(control int) (number int, err error) {
	err = do("get a free loop device", "", func() error {
		number, err = unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		return err
	})
	return number, err
}

// LoopConfigure is LOOP_CONFIGURE of loop(4).
func LoopConfigure(fd int, config *unix.LoopConfig) error {
	return do("configure loop device", "", func() error { return unix.IoctlLoopConfigure(fd, config) })
}

// Statx is unix.Statx.
func Statx(dir int, path string, flags, mask int) (st unix.Statx_t, err error) {
	err = do("statx", path, func() error { return unix.Statx(dir, path, flags, mask, &st) })
	return st, err
}
