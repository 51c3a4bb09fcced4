package disk

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dirent is an entry of a directory.
type Dirent struct {
	Name string
	Kind uint8 // unix.DT_REG and so on; DT_UNKNOWN where the file system does not say
}

// ReadDirents reads some entries of the directory that fd is open on, at least one but for
// its end: "." and ".." are left out.
func ReadDirents(fd int, buffer []byte) (entries []Dirent, err error) {
	for len(entries) == 0 {
		n, err := ReadDirent(fd, buffer)
		if n <= 0 || err != nil {
			return nil, err
		}
		entries = parseDirents(buffer[:n])
	}
	return entries, nil
}

// parseDirents reads what getdents64(2) has written.
func parseDirents(dirents []byte) (entries []Dirent) {
	const length, kind, start = unsafe.Offsetof(unix.Dirent{}.Reclen), unsafe.Offsetof(unix.Dirent{}.Type), unsafe.Offsetof(unix.Dirent{}.Name)
	for len(dirents) > 0 {
		size := binary.NativeEndian.Uint16(dirents[length:])
		name := unix.ByteSliceToString(dirents[start:size])
		if name != "." && name != ".." {
			entries = append(entries, Dirent{name, dirents[kind]})
		}
		dirents = dirents[size:]
	}
	return entries
}
