package agent

import (
	"os"
	"syscall"
)

// used returns the share of a file system that is used. What only root may fill counts
// as free, as in Mesos.
func used(dir string) (float64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Blocks == 0 { // some file systems have no size, and never fill up
		return 0, nil
	}
	return float64(st.Blocks-st.Bfree) / float64(st.Blocks), nil
}
