package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// invisible is how the kernel lists a process that has no id in the reader's pid
// namespace. kill(2) would take it for the reader's own process group.
const invisible = 0

// processes returns the ids of all processes in the branch, also those in cgroups
// that the container made below it; none when the branch does not exist.
func (b branch) processes() ([]int, error) {
	var pids []int
	err := b.walk(func(dirFD int) error {
		text, err := readAt(dirFD, "cgroup.procs")
		if errors.Is(err, unix.EOPNOTSUPP) {
			// A threaded cgroup, which holds threads of processes that the one above
			// it lists. The group itself cannot become one: that takes an empty cgroup.
			return nil
		}
		if err != nil {
			return ignoreGone(err)
		}
		for field := range strings.FieldsSeq(text) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("read cgroup.procs: %w", err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// Processes returns the processes in the cgroup and in those below it.
func (d Dir) Processes() ([]int, error) {
	return branch{hierarchy: &hierarchy{version: d.version}, dir: d.path}.processes()
}

// walk calls visit with an open directory for the branch itself and then for every
// cgroup below it. What vanishes meanwhile is passed over.
func (b branch) walk(visit func(dirFD int) error) error {
	return walkAt(unix.AT_FDCWD, b.dir, visit)
}

// walkAt goes by open directories instead of paths: a container may have nested
// cgroups deeper than a path can be long.
func walkAt(parentFD int, name string, visit func(dirFD int) error) error {
	fd, err := openDirAt(parentFD, name)
	if err != nil {
		return ignoreGone(err)
	}
	if childless(fd) {
		return errors.Join(visit(fd), unix.Close(fd))
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if err := visit(fd); err != nil {
		return err
	}
	children, err := subdirectories(dir)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := walkAt(fd, child, visit); err != nil {
			return err
		}
	}
	return nil
}

func openDirAt(parentFD int, name string) (int, error) {
	return openAt(parentFD, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// childless reports whether a cgroup has none below it. Such a one has two links
// (kernfs_refresh_inode), and dozens of files that need not be listed.
func childless(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Nlink == 2
}

// subdirectories returns the names of the cgroups in an open directory.
func subdirectories(dir *os.File) ([]string, error) {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, ignoreGone(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// ignoreGone drops the error of a cgroup that is not there (any more). ENOTDIR is
// of the same kind: the path names a file of the kernel's, so there is no such cgroup.
func ignoreGone(err error) error {
	if gone(err) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}
