package layer

import "berth/internal/mount"

// removeTree removes a directory of the store. The names in it came from images, so no
// link is followed; it goes on after failures.
func removeTree(path string) error {
	_, err := mount.RemoveAll(path)
	return err
}
