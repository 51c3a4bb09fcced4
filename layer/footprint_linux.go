package layer

import (
	"errors"
	"io/fs"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// footprint tells how many bytes of a file system nodes occupy, so that statfs(2) shows
// that many to be free once they are gone: all of them on ext4, on xfs and btrfs those
// of thousands of nodes within 1 % (2 % on btrfs without compression).
type footprint struct {
	block int64 // what a small file occupies, at least
	inode int64 // what a node occupies beside its blocks
	// inline is the size up to which btrfs keeps a file's content beside its inode, as
	// often as copies says. For the rest it keeps checksums.
	inline int64
	copies int64
}

const (
	xfsMagic    = unix.XFS_SUPER_MAGIC
	btrfsMagic  = unix.BTRFS_SUPER_MAGIC
	btrfsInline = 2048 // the option max_inline, unless it was given
	// An inode, its name in three places and room in the tree's nodes, as measured.
	btrfsInode = 580
	// 4 bytes of checksum for 4096 of content.
	btrfsSummed = 1024
)

// newFootprint returns the footprint on the file system of fd. Inodes of ext4 were
// reserved when it was made; those of xfs and btrfs come and go.
func newFootprint(fd int) (footprint, error) {
	var st unix.Statfs_t
	if err := disk.Fstatfs(fd, &st); err != nil {
		return footprint{}, did("statfs", err)
	}
	f := footprint{block: int64(st.Bsize)}
	switch st.Type {
	case xfsMagic:
		f.inode = xfsInodeSize(fd)
	case btrfsMagic:
		f.copies = btrfsCopies(fd)
		f.inode, f.inline = f.copies*btrfsInode, btrfsInline
	}
	return f, nil
}

// of returns what the node with the attributes st occupies, but for those with several
// names once only.
func (f footprint) of(st *unix.Stat_t) int64 {
	if f.inline == 0 {
		return st.Blocks*512 + f.inode
	}
	if kind := st.Mode & unix.S_IFMT; (kind == unix.S_IFREG || kind == unix.S_IFLNK) && st.Size <= f.inline {
		return st.Size*f.copies + f.inode
	}
	return st.Blocks*512 + st.Blocks*512/btrfsSummed*f.copies + f.inode
}

// occupiedBeside returns what the form in staging at dir occupies beside a tree, with what is yet to be written and with the directory of the layer.
func occupiedBeside(dir string) (int64, error) {
	d, err := disk.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	f, err := newFootprint(int(d.Fd()))
	if err != nil {
		return 0, err
	}
	var form unix.Stat_t
	if err := disk.Fstatat(int(d.Fd()), ".", &form, 0); err != nil {
		return 0, err
	}
	const info, epoch = 300, 30 // bytes, more or less
	total := 2*f.of(&form) + f.small(info) + f.small(epoch)
	for _, name := range []string{splitFile, TarFile, IndexFile} {
		var st unix.Stat_t
		switch err := disk.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case err == nil:
			total += f.of(&st)
		case !errors.Is(err, unix.ENOENT):
			return 0, err
		}
	}
	return total, nil
}

// small returns what a file of few bytes occupies that is not written yet.
func (f footprint) small(size int64) int64 {
	if size <= f.inline {
		return size*f.copies + f.inode
	}
	return (size+f.block-1)/f.block*f.block + f.inode
}

// xfsInodeSize asks for the geometry (ioctl_xfs_fsgeometry(2)).
func xfsInodeSize(fd int) int64 {
	const fsGeometry, usual = 0x80705864, 512
	var geometry [112]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsGeometry, uintptr(unsafe.Pointer(&geometry))); errno != 0 {
		return usual
	}
	return int64(*(*uint32)(unsafe.Pointer(&geometry[24])))
}

// btrfsCopies asks how many copies of its metadata the file system keeps.
func btrfsCopies(fd int) int64 {
	const spaceInfo, metadata, duplicated = 0xc0109414, 1 << 2, 1<<4 | 1<<5 | 1<<6 // RAID1, DUP, RAID10
	var spaces struct {
		slots, total uint64
		info         [16]struct{ flags, total, used uint64 }
	}
	spaces.slots = uint64(len(spaces.info))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), spaceInfo, uintptr(unsafe.Pointer(&spaces))); errno != 0 {
		return 1
	}
	for _, s := range spaces.info[:min(spaces.total, spaces.slots)] {
		if s.flags&metadata != 0 && s.flags&duplicated != 0 {
			return 2
		}
	}
	return 1
}

// awaitFree waits until what was removed from the file system of f is free: xfs frees in
// the background, btrfs when it commits.
func awaitFree(f *disk.File) error {
	var st unix.Statfs_t
	if err := disk.Fstatfs(int(f.Fd()), &st); err != nil {
		return did("statfs", err)
	}
	switch st.Type {
	case xfsMagic:
		return did("wait for the removal", freeEOFBlocks(int(f.Fd())))
	case btrfsMagic:
		return did("wait for the removal", disk.Syncfs(f))
	}
	return nil
}

// freeEOFBlocks has xfs free what it has allocated beyond the end of files, of such as
// are too large to exist. What counts is how it ends: it waits until all that was removed
// is free (xfs_blockgc_free_space() in the kernel).
func freeEOFBlocks(fd int) error {
	const freeEOFBlocks, minFileSize = 0x8080583a, 1 << 4
	request := struct {
		version, flags    uint32
		uid, gid, project uint32
		_                 uint32
		minFileSize       uint64
		_                 [12]uint64
	}{version: 1, flags: minFileSize, minFileSize: 1 << 62}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), freeEOFBlocks, uintptr(unsafe.Pointer(&request)))
	if errno != 0 && errno != unix.ENOTTY {
		return errno
	}
	return nil
}

// measureTree returns what the node at path and all below it occupies.
func measureTree(path string) (total int64, err error) {
	dir, err := disk.Open(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	f, err := newFootprint(int(dir.Fd()))
	if err != nil {
		return 0, err
	}
	linked := make(map[uint64]bool)
	err = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = disk.Fstatat(unix.AT_FDCWD, path, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil || linked[st.Ino] {
			return err
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			linked[st.Ino] = true
		}
		total += f.of(&st)
		return nil
	})
	return total, err
}
