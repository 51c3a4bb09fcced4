package erofs

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"berth/internal/testrig"
)

// checkGoErofs compares what go-erofs reads with what it should.
func (r *tree) checkGoErofs(index, device string) {
	r.t.Helper()
	image, err := os.Open(index)
	r.must(err)
	defer image.Close()
	data, err := os.Open(device)
	r.must(err)
	defer data.Close()
	img, err := goerofs.Open(image, goerofs.WithExtraDevices(data))
	r.must(err)

	var got []testrig.Entry
	inodes := map[string]int64{}
	r.must(fs.WalkDir(img, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("stat %s: %w", name, err)
		}
		st := info.Sys().(*goerofs.Stat)
		e := testrig.Entry{
			Path: name, Mode: unixPermissions(st.Mode), UID: st.UID, GID: st.GID,
			MTime: time.Unix(int64(st.Mtime), int64(st.MtimeNs)).UTC(), Links: uint64(st.Nlink),
		}
		for n, value := range st.Xattrs {
			// It takes what the kernel has as whole names for prefixes.
			if strings.HasPrefix(n, "system.posix_acl_") {
				n = strings.TrimSuffix(n, ".")
			}
			if !testrig.IgnoredXattr(n) {
				if e.Xattrs == nil {
					e.Xattrs = map[string]string{}
				}
				e.Xattrs[n] = value
			}
		}
		inodes[name] = st.Ino
		switch st.Mode.Type() {
		case fs.ModeDir:
			e.Type, e.Links = unix.S_IFDIR, 0
		case 0:
			content, err := fs.ReadFile(img, name)
			if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			sum := sha256.Sum256(content)
			e.Type, e.Size, e.Digest = unix.S_IFREG, st.Size, hex.EncodeToString(sum[:])
		case fs.ModeSymlink:
			e.Type = unix.S_IFLNK
			if e.Target, err = fs.ReadLink(img, name); err != nil {
				return err
			}
		case fs.ModeNamedPipe:
			e.Type = unix.S_IFIFO
		default:
			e.Type = unix.S_IFBLK
			if st.Mode&fs.ModeCharDevice != 0 {
				e.Type = unix.S_IFCHR
			}
			e.Rdev = fmt.Sprintf("%d:%d", st.Rdev>>8&0xfff, st.Rdev&0xff|st.Rdev>>12&0xfff00)
		}
		got = append(got, e)
		return nil
	}))
	slices.SortFunc(got, func(a, b testrig.Entry) int { return cmp.Compare(a.Path, b.Path) })
	first := map[int64]string{}
	for i, e := range got {
		inode := inodes[e.Path]
		if _, ok := first[inode]; !ok {
			first[inode] = e.Path
		}
		got[i].First = first[inode]
	}
	for _, diff := range testrig.Compare(r.want(), got) {
		r.t.Errorf("go-erofs: %s", diff)
	}
}

func unixPermissions(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	for _, b := range []struct {
		flag fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if mode&b.flag != 0 {
			bits |= b.bit
		}
	}
	return bits
}
