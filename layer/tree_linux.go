package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
)

// tree is a directory that is being filled, or looked at. Names are resolved by the
// kernel beneath its root without following any link (openat2(2)).
type tree struct {
	root int
	// The directory of the last entry, kept open: entries of a tar mostly come
	// directory by directory.
	last   int
	lastAt string
	// nodes counts what lies below the root, and bytes what it occupies, but for
	// directories.
	nodes     int
	bytes     int64
	footprint footprint
	// inherits says that some directory has a default access control list, which the
	// kernel gives to what is made there.
	inherits bool
}

const directoryFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func newTree(root int) *tree { return &tree{root: root, last: -1} }

func (t *tree) close() {
	if t.last >= 0 {
		unix.Close(t.last)
		t.last = -1
	}
}

// existing opens the directory dir. The caller closes it.
func (t *tree) existing(dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	return disk.Openat2(t.root, dir, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, // with O_NOFOLLOW a link would be ENOTDIR, not ELOOP
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// open returns the directory dir, which exists; the descriptor is valid until the
// next call.
func (t *tree) open(dir string) (int, error) {
	switch {
	case dir == "":
		return t.root, nil
	case t.last >= 0 && t.lastAt == dir:
		return t.last, nil
	}
	fd, err := t.existing(dir)
	if err != nil {
		return -1, err
	}
	t.close()
	t.last, t.lastAt = fd, dir
	return fd, nil
}

// directory is open for a directory that may be missing: it returns the names of
// those that it had to make, too.
func (t *tree) directory(dir string) (fd int, made []string, err error) {
	fd, err = t.open(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if made, err = t.makeMissing(dir); err == nil {
			fd, err = t.open(dir)
		}
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return -1, made, fmt.Errorf("%w: its directory %s goes through a symbolic link of this layer", container.ErrInvalid, quote(dir))
	case errors.Is(err, unix.ENOTDIR):
		return -1, made, fmt.Errorf("%w: its directory %s is no directory in this layer", container.ErrInvalid, quote(dir))
	case err != nil:
		return -1, made, fmt.Errorf("open directory %s: %w", quote(dir), err)
	}
	return fd, made, nil
}

// makeMissing makes the directories of dir that do not exist, or of which this
// layer has only a whiteout, and returns them.
func (t *tree) makeMissing(dir string) (made []string, err error) {
	for end := 0; end < len(dir); {
		if slash := strings.IndexByte(dir[end+1:], '/'); slash >= 0 {
			end += 1 + slash
		} else {
			end = len(dir)
		}
		fd, err := t.existing(dir[:end])
		if err == nil {
			unix.Close(fd)
			continue
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return made, err
		}
		if err := t.makeImplied(dir[:end]); err != nil {
			return made, err
		}
		made = append(made, dir[:end])
	}
	return made, nil
}

// makeImplied makes a directory that has no entry, or none yet.
func (t *tree) makeImplied(path string) error {
	dir, base := cut(path)
	parent, err := t.existing(dir)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	n := node{parent: parent, dir: dir, base: base}
	err = t.makeDirectory(n)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if kind, err := t.vacate(n); err != nil || kind != 0 {
		return errors.Join(err, unix.ENOTDIR)
	}
	if err := t.makeDirectory(n); err != nil {
		return err
	}
	return setOpaque(n) // the lower layers' directory stays hidden
}

func (t *tree) makeDirectory(n node) error {
	if err := disk.Mkdirat(n.parent, n.base, 0o700); err != nil {
		return did("mkdir", err)
	}
	t.nodes++
	// Whatever umask, setgid directory and default access control list have made of it.
	return t.setAttributes(n, impliedDirectory)
}

// impliedDirectory describes the directories that are only part of a name.
var impliedDirectory = &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}

// setAttributes is the function of that name, for a node just made.
func (t *tree) setAttributes(n node, hdr *tar.Header) error {
	if t.inherits {
		if err := clearXattrs(n); err != nil {
			return err
		}
	}
	if _, ok := hdr.PAXRecords[paxXattr+defaultACLXattr]; ok {
		t.inherits = true
	}
	return setAttributes(n, hdr)
}

// vacate removes the whiteout at n. When something else is there it returns the
// type of that and leaves it.
func (t *tree) vacate(n node) (kind uint32, err error) {
	var st unix.Stat_t
	if err := disk.Fstatat(n.parent, n.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	if !isWhiteout(&st) {
		return st.Mode & unix.S_IFMT, nil
	}
	t.nodes--
	t.bytes -= t.footprint.of(&st)
	return 0, disk.Unlinkat(n.parent, n.base, 0)
}

// whiteout hides the name n of the lower layers. What this layer itself has there
// stays: a file hides by being there, a directory by being opaque.
func (t *tree) whiteout(n node) error {
	err := disk.Mknodat(n.parent, n.base, unix.S_IFCHR, 0)
	if err == nil {
		t.nodes++
		t.bytes += t.footprint.of(&unix.Stat_t{Mode: unix.S_IFCHR})
		return mayHaveWhiteouts(node{parent: n.parent, base: "."})
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := disk.Fstatat(n.parent, n.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return setOpaque(n)
}

// mayHaveWhiteouts marks a directory that has whiteouts. Without the mark overlayfs
// shows them, as names that cannot be opened, where no other layer has the directory:
// it looks for whiteouts only in what it merges, or what came from a lower layer, which
// is what the attribute says (ovl_dir_is_real() in the kernel's readdir.c).
func mayHaveWhiteouts(n node) error {
	if err := disk.Lsetxattr(n.procPath(), originXattr, nil, 0); err != nil {
		return fmt.Errorf("set attribute %s: %w", originXattr, err)
	}
	return nil
}

// hardLink makes n another name of the node dir/base, which must be one of this
// layer; a whiteout is none.
func (t *tree) hardLink(dir, base string, n node) error {
	target, err := t.existing(dir)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	var st unix.Stat_t
	if err := disk.Fstatat(target, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if isWhiteout(&st) {
		return unix.ENOENT
	}
	return disk.Linkat(target, base, n.parent, n.base, 0)
}

func setOpaque(n node) error {
	if err := disk.Lsetxattr(n.procPath(), opaqueXattr, []byte{'y'}, 0); err != nil {
		return fmt.Errorf("set attribute %s: %w", opaqueXattr, err)
	}
	return nil
}

// measure returns what a node occupies that is complete.
func (t *tree) measure(dir int, path string) (int64, error) {
	var st unix.Stat_t
	if err := disk.Fstatat(dir, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, did("stat", err)
	}
	return t.footprint.of(&st), nil
}

// isWhiteout reports whether st is overlayfs's mark for "not here".
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}
