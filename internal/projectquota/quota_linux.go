package projectquota

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Project names the files that are counted together. 0 is what no project has.
type Project uint32

// Usage of a project, in bytes.
type Usage struct {
	Used uint64
	// Soft and Hard limit; 0: there is none. Beyond the soft one a file system only
	// takes note.
	Soft, Hard uint64
}

// Commands of quotactl(2) for project quotas; see linux/dqblk_xfs.h. They work on ext4,
// too.
const (
	projects    = 2 // PRJQUOTA
	getState    = (('X'<<8)+8)<<8 | projects
	getQuota    = (('X'<<8)+3)<<8 | projects
	setLimits   = (('X'<<8)+4)<<8 | projects
	accounted   = 1 << 4 // FS_QUOTA_PDQ_ACCT
	enforced    = 1 << 5 // FS_QUOTA_PDQ_ENFD
	softAndHard = 1<<2 | 1<<3
	block       = 512
)

// diskQuota is struct fs_disk_quota.
type diskQuota struct {
	version   int8
	flags     int8
	fieldmask uint16
	id        uint32
	hard      uint64
	soft      uint64
	inodeHard uint64
	inodeSoft uint64
	blocks    uint64
	inodes    uint64
	_         [56]byte // timers, warnings, realtime blocks
}

// Check reports whether the file system of a directory enforces project quotas. The error
// is of class container.ErrNotSupported and says what is missing.
func Check(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	var remedy string
	switch int64(st.Type) {
	case unix.XFS_SUPER_MAGIC:
		remedy = "mount the XFS with the option prjquota"
	case unix.EXT4_SUPER_MAGIC:
		remedy = "unmounted, `tune2fs -O project,quota -Q prjquota` gives them to the ext4; then mount it with the option prjquota"
	default:
		return fmt.Errorf("%s: %w: its file system has no project quotas; XFS and ext4 do", dir, container.ErrNotSupported)
	}
	// struct fs_quota_statv, of which the flags are the second field.
	state := [256]byte{0: 1}
	switch err := quotactl(dir, getState, 0, unsafe.Pointer(&state)); {
	case errors.Is(err, unix.ENOSYS) && !hasQuotactl():
		return fmt.Errorf("%s: %w: project quotas need Linux 5.14", dir, container.ErrNotSupported)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: %w: its project quotas are switched off: %s", dir, container.ErrNotSupported, remedy)
	case err != nil:
		return fmt.Errorf("%s: read the state of its quotas: %w", dir, err)
	}
	flags := *(*uint16)(unsafe.Pointer(&state[2]))
	if flags&accounted == 0 || flags&enforced == 0 {
		return fmt.Errorf("%s: %w: its project quotas are switched off: %s", dir, container.ErrNotSupported, remedy)
	}
	return nil
}

// hasQuotactl reports whether the kernel has quotactl_fd(2), by a descriptor that is none.
func hasQuotactl() bool {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, ^uintptr(0), getState, 0, 0, 0, 0)
	return errno != unix.ENOSYS
}

// SetLimits sets the limits of a project on the file system of dir.
func SetLimits(dir string, p Project, soft, hard uint64) error {
	q := diskQuota{version: 1, flags: 2 /* FS_PROJ_QUOTA */, fieldmask: softAndHard, id: uint32(p), soft: blocks(soft), hard: blocks(hard)}
	if err := quotactl(dir, setLimits, p, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("set the quota of project %d on the file system of %s: %w", p, dir, err)
	}
	return nil
}

// blocks rounds up, so that no limit becomes none.
func blocks(bytes uint64) uint64 { return (bytes + block - 1) / block }

// UsageOf returns what a project has on the file system of dir. fs.ErrNotExist: there is no
// such directory.
func UsageOf(dir string, p Project) (Usage, error) {
	var q diskQuota
	err := quotactl(dir, getQuota, p, unsafe.Pointer(&q))
	if err == unix.ENOENT { // of quotactl(2), not of the directory: nothing was counted and no limit was set
		return Usage{}, nil
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read the quota of project %d on the file system of %s: %w", p, dir, err)
	}
	return Usage{Used: q.blocks * block, Soft: q.soft * block, Hard: q.hard * block}, nil
}

func quotactl(dir string, cmd uintptr, p Project, data unsafe.Pointer) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), cmd, uintptr(p), uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
