package overlay

import (
	"io/fs"
	"os"
	"syscall"
	"time"
)

// copyRootAttributes gives the upper directory the owner, mode and modification time
// of the topmost layer's root, which it stands in front of.
func copyRootAttributes(upper string, layerRoot fs.FileInfo) error {
	st := layerRoot.Sys().(*syscall.Stat_t)
	if err := os.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := syscall.Chmod(upper, st.Mode&0o7777); err != nil {
		return err
	}
	return os.Chtimes(upper, time.Unix(st.Atim.Unix()), layerRoot.ModTime())
}
