package layer

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// currentSession names the session in which dir is: by the boot, and by the mount, because
// a disk may come and go, and a copy of it may come, without one.
func currentSession(dir string) (string, error) {
	boot, err := disk.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	var st unix.Statx_t
	// The unique id needs Linux 6.8. The other one may be given again, to a later mount.
	err = unix.Statx(unix.AT_FDCWD, dir, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE, &st)
	if err != nil {
		return "", &os.PathError{Op: "statx", Path: dir, Err: err}
	}
	return fmt.Sprintf("%s/%d:%d/%d", strings.TrimSpace(string(boot)), st.Dev_major, st.Dev_minor, st.Mnt_id), nil
}
