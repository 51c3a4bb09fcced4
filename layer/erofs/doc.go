// Package erofs writes EROFS file systems that have the contents of their files in
// another file, the device: an index over the tar of a layer, which the kernel
// mounts without anything being unpacked.
//
// It follows Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux,
// of which it uses the part without compression. What it writes:
//
//		0      1024         1152     1280  1536
//		+------+------------+--------+-----+--------+---------+-------------------+
//		| zero | superblock | device | 0   | inodes | padding | blocks            |
//		+------+------------+--------+-----+--------+---------+-------------------+
//
//	  - The superblock has a checksum (crc32c) of itself and of what follows in its
//	    block. Its device table has one device, the tar.
//	  - Each inode is of the extended kind (64 bytes, times in ns), followed by its
//	    extended attributes, and then by its chunk indexes (a regular file), its target
//	    (a symbolic link) or what of its names fills no block (a directory).
//	  - The blocks hold the names of larger directories, targets too long to stand
//	    beside their inode, and last the contents of files that AddData was given.
//	  - The order is that of the tree: the root, then the entries of a directory side by
//	    side in the order of their names, then what is below the first of them, and so
//	    on. So the bytes depend on the tree alone, not on how it was built; but what
//	    AddData was given lies in the order of its calls.
//
// A file that lies in one piece in the device needs one chunk index, as a chunk may be
// as large as it likes.
//
// # Blocks of 512 bytes
//
// Blocks are as large as those of tar, so that no content needs to move and the tar stays
// what its digest says. The alternative, blocks of 4 KiB over data that were moved to
// where pages begin, would need a second copy or another way back to the tar, and reads no
// faster. BenchmarkRead, 200 MB (a file of 100 MB, 5000 of 20 KiB) on an ext4 of its own,
// Linux 6.18, two busy cores, the least of 12 (sequential: of 9) in ms:
//
//	                              512 over tar   4096   tree of ext4
//	sequential          cold               278    468            788
//	                    warm                82     73             92
//	5000 random pages   cold               525    504            604
//	                    warm               6.8    6.8            6.0
//	5000 faults (mmap)  cold               268    329            141
//	                    warm               7.0    9.9           10.4
//
// What differs between the first two columns is within the noise of that machine. Cold
// faults are slower than those of ext4 with either: the kernel reads the tar ahead into
// its page cache, then copies into that of the file.
//
// # Mounting
//
// The kernel mounts an index from a regular file since Linux 6.12:
//
//	mount.New("erofs", index, []mount.Option{{Key: "ro"}, {Key: "device", Value: tar}}, mount.ReadOnly)
//
// and older ones, since they know blocks of 512 bytes (6.4), from two loop devices, which
// "ro" is for.
//
// Overlayfs tells its lower layers apart by their UUIDs (SetUUID). Where two have the
// same or none, it does without what needs that, inode numbers which a copy up does not
// change for one, and with some options says so in the kernel's log.
package erofs
