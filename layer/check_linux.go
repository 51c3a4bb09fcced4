package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
)

// Check compares a visible layer in a form with its digest and record, and returns what
// differs. The caller holds the layer.
//
// Of a tree it makes the tar again, from the tree and its split, and compares every tar entry
// with its node: type, mode, owner, size, content, time of modification, link target, device
// number, extended attributes; and every node of the tree with what the tar has of
// it. Of the form EROFS it reads the tar, makes the index again and compares it.
//
// A layer without a problem counts as verified until the next unclean shutdown.
//
// An error says that the check could not be done, not that the layer is broken.
func (s *Store) Check(ctx context.Context, id image.Digest, form Form) ([]Problem, error) {
	if !s.visible(id, form) {
		return nil, fmt.Errorf("check layer %s: %w in the form %s", id, container.ErrNotFound, form)
	}
	var found problems
	// The same directory all the time: another process may put a new one in its place.
	dir, err := disk.Open(s.formDir(id, form))
	if err == nil {
		defer dir.Close()
		err = checkForm(ctx, id, form, int(dir.Fd()), &found)
	} else {
		found.add("", "it cannot be opened: %v", err)
		err = nil
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil:
		err = found.unable
	}
	if err != nil {
		return nil, fmt.Errorf("check layer %s: %w", id, err)
	}
	if len(found.list) > 0 {
		return found.list, nil
	}
	return nil, s.vouch(ctx, int(dir.Fd()))
}

// checkForm examines the form whose directory is dir.
func checkForm(ctx context.Context, id image.Digest, form Form, dir int, found *problems) error {
	info, infoErr := readInfo(dir)
	if errors.Is(infoErr, container.ErrNotSupported) {
		return infoErr
	}
	if infoErr != nil {
		found.add("", "its record is damaged: %v", infoErr)
	}
	remake := remadeTree
	if form == EROFS {
		remake = remadeEROFS
	}
	got, err := remake(ctx, id, dir, found)
	switch {
	case errors.Is(err, errNothing): // found has it
	case err != nil:
		found.add("", "its tar cannot be made again: %v", err)
	case got.DiffID != id:
		found.add("", "its tar has the digest %s", got.DiffID)
	case infoErr == nil && !got.equal(info):
		found.add("", "its record is %+v, found was %+v", info, got)
	}
	return nil
}

// errNothing says that there is nothing to look at.
var errNothing = errors.New("the content is missing")

// remadeTree returns the record that the tree in dir should have.
func remadeTree(ctx context.Context, _ image.Digest, dir int, found *problems) (Info, error) {
	root, err := openBelow(dir, contentDir, directoryFlags)
	if err != nil {
		found.add("", "its tree is missing: %v", err)
		return Info{}, errNothing
	}
	defer root.Close()
	c := &checker{found: found, named: make(map[uint64]role), seed: maphash.MakeSeed(), directories: make(map[string][]string)}
	return c.compare(ctx, int(root.Fd()), dir)
}

// openBelow opens a file in the directory of a form.
func openBelow(dir int, name string, flags int) (*os.File, error) {
	fd, err := disk.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readInfo(dir int) (Info, error) {
	f, err := openBelow(dir, infoFile, unix.O_RDONLY)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return Info{}, err
	}
	return parseInfo(data)
}

// vouch says in the form in dir that it has been verified. If that cannot be written, it
// is verified again.
func (s *Store) vouch(ctx context.Context, dir int) error {
	epoch, err := s.epoch(ctx)
	if err != nil {
		return err
	}
	f, err := openBelow(dir, epochFile, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil
	}
	defer f.Close()
	want := []byte(epoch + "\n")
	if got, err := io.ReadAll(f); err == nil && bytes.Equal(got, want) {
		return nil
	}
	if disk.Ftruncate(int(f.Fd()), 0) == nil {
		_, _ = disk.Pwrite(int(f.Fd()), want, 0)
	}
	return nil
}

// checker compares a tree with its tar.
type checker struct {
	tree  *tree
	found *problems
	info  Info
	// named has the roles of every name that the tar mentions, by a hash of the name:
	// so a million names need little memory.
	named map[uint64]role
	seed  maphash.Seed
	// directories has what differs at a directory's last entry: that one counts.
	directories map[string][]string
}

// role is what the tar says of a name.
type role uint8

const (
	hasEntry role = 1 << iota
	isImplied
	isHidden // by a whiteout
	isOpaque
)

func (c *checker) is(path string, r role) { c.named[maphash.String(c.seed, path)] |= r }

func (c *checker) role(path string) role { return c.named[maphash.String(c.seed, path)] }

// compare makes the tar again and returns the record that it should have.
func (c *checker) compare(ctx context.Context, root, dir int) (Info, error) {
	split, err := openBelow(dir, splitFile, unix.O_RDONLY)
	if err != nil {
		return Info{}, err
	}
	defer split.Close()
	made, err := newTarball(split, newTree(root), c.found)
	if err != nil {
		return Info{}, err
	}
	defer made.close()
	c.tree = newTree(root)
	defer c.tree.close()

	sum := sha256.New()
	stream := io.TeeReader(endingWith(ctx, made), sum)
	if err := c.compareEntries(stream); err != nil {
		return Info{}, err
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return Info{}, err
	}
	if err := c.walk(ctx, node{parent: root, base: "."}); err != nil {
		return Info{}, err
	}
	if c.role("")&hasEntry == 0 { // the root
		c.info.Implied = append(c.info.Implied, []byte("."))
	}
	slices.SortFunc(c.info.Implied, bytes.Compare)
	c.info.Version, c.info.Size, c.info.DiffID = 1, made.n, image.DigestOfSum([sha256.Size]byte(sum.Sum(nil)))
	return c.info, nil
}

// compareEntries compares each entry of the tar with the node of the tree.
func (c *checker) compareEntries(stream io.Reader) error {
	archive := tar.NewReader(stream)
	for {
		hdr, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		c.info.Entries++
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := c.compareEntry(hdr, archive); err != nil {
			return fmt.Errorf("entry %d, %s: %w", c.info.Entries-1, quote(hdr.Name), err)
		}
	}
	for path, diffs := range c.directories {
		c.add(path, diffs)
	}
	return nil
}

func (c *checker) add(path string, diffs []string) {
	for _, what := range diffs {
		c.found.add(path, "%s", what)
	}
}

func (c *checker) compareEntry(hdr *tar.Header, body io.Reader) error {
	at, err := locate(hdr.Name, maxName)
	if err != nil || at.kind == metadata {
		return err
	}
	c.imply(at.dir)
	switch {
	case at.kind == opaque:
		c.info.Whiteouts++
		c.is(at.dir, isOpaque)
		return nil
	case at.kind == whiteout:
		c.info.Whiteouts++
		c.is(at.path(), isHidden)
		if !c.exists(at.dir, at.base) {
			c.found.add(at.path(), "its whiteout is missing")
		}
		return nil
	}
	c.is(at.path(), hasEntry)
	diffs := c.differences(hdr, at, body)
	if hdr.Typeflag != tar.TypeDir {
		c.add(at.path(), diffs)
	} else if len(diffs) > 0 {
		c.directories[at.path()] = diffs
	} else {
		delete(c.directories, at.path())
	}
	return nil
}

// imply notes the directories that a name goes through.
func (c *checker) imply(dir string) {
	for ; dir != "" && c.role(dir)&(hasEntry|isImplied) == 0; dir, _ = cut(dir) {
		c.is(dir, isImplied)
	}
}

func (c *checker) exists(dir, base string) bool {
	var st unix.Stat_t
	parent, err := c.tree.open(dir)
	if err == nil {
		err = disk.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	return c.found.note(err) == nil
}

// differences says in which ways the node is not what hdr says.
func (c *checker) differences(hdr *tar.Header, at position, body io.Reader) []string {
	parent, err := c.tree.open(at.dir)
	if err != nil {
		return []string{fmt.Sprintf("its directory cannot be opened: %v", c.found.note(err))}
	}
	n := node{parent: parent, dir: at.dir, base: at.base}
	if n.base == "" {
		n.base = "."
	}
	var st unix.Stat_t
	if err := disk.Fstatat(n.parent, n.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return []string{fmt.Sprintf("it is missing: %v", c.found.note(err))}
	}
	switch got, want := st.Mode&unix.S_IFMT, fileType(hdr); {
	case hdr.Typeflag == tar.TypeLink:
		return c.linkDifferences(hdr, &st)
	case got != want:
		return []string{fmt.Sprintf("its type is %o, not %o", got, want)}
	}
	diffs, err := attributeDifferences(n, hdr)
	if err != nil {
		diffs = append(diffs, c.found.note(err).Error())
	}
	if got, want := st.Mtim, times(hdr)[1]; got != want {
		diffs = append(diffs, fmt.Sprintf("its time of modification is %d.%09d, not %d.%09d", got.Sec, got.Nsec, want.Sec, want.Nsec))
	}
	return append(diffs, c.ownDifferences(hdr, n, &st, body)...)
}

// linkDifferences compares a hard link, which has all else in common with its target.
func (c *checker) linkDifferences(hdr *tar.Header, st *unix.Stat_t) []string {
	dir, base, err := splitName(hdr.Linkname, maxName)
	if err != nil {
		return []string{err.Error()}
	}
	var target unix.Stat_t
	parent, err := c.tree.open(dir)
	if err == nil {
		err = disk.Fstatat(parent, base, &target, unix.AT_SYMLINK_NOFOLLOW)
	}
	if c.found.note(err) != nil || target.Ino != st.Ino {
		return []string{"it is no longer the same file as " + quote(hdr.Linkname)}
	}
	return nil
}

// ownDifferences compares what nodes of one type have.
func (c *checker) ownDifferences(hdr *tar.Header, n node, st *unix.Stat_t, body io.Reader) []string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Size != hdr.Size {
			return []string{fmt.Sprintf("its size is %d, not %d", st.Size, hdr.Size)}
		}
		if IsSparse(hdr) && !c.sameContent(n.path(), body) { // of other files the tarball knows
			return []string{"its content has changed"}
		}
	case unix.S_IFLNK:
		if target, err := readLink(n); c.found.note(err) != nil || target != hdr.Linkname {
			return []string{fmt.Sprintf("it links to %s, not %s", quote(target), quote(hdr.Linkname))}
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if want := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)); st.Rdev != want {
			return []string{fmt.Sprintf("its device number is %d:%d, not %d:%d",
				unix.Major(st.Rdev), unix.Minor(st.Rdev), hdr.Devmajor, hdr.Devminor)}
		}
	}
	return nil
}

// sameContent compares a file of the tree with what the tar has of it.
func (c *checker) sameContent(path string, body io.Reader) bool {
	file, err := openFile(c.tree, path)
	if c.found.note(err) != nil {
		return false
	}
	defer file.Close()
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, wantErr := io.ReadFull(body, want)
		if m, _ := io.ReadFull(file, got[:n]); m != n || string(got[:n]) != string(want[:n]) {
			return false
		}
		if wantErr != nil {
			return true // an error but the end is the tar reader's next answer, too
		}
	}
}

func readLink(n node) (string, error) {
	target := make([]byte, maxName+1)
	size, err := disk.Readlinkat(n.parent, n.base, target)
	if err != nil {
		return "", err
	}
	return string(target[:size]), nil
}

func fileType(hdr *tar.Header) uint32 {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return unix.S_IFDIR
	case tar.TypeSymlink:
		return unix.S_IFLNK
	case tar.TypeFifo:
		return unix.S_IFIFO
	case tar.TypeChar:
		return unix.S_IFCHR
	case tar.TypeBlock:
		return unix.S_IFBLK
	default:
		return unix.S_IFREG
	}
}

// walk looks for what the tar does not have, in the directory n and below.
func (c *checker) walk(ctx context.Context, n node) error {
	path := n.path()
	if path == "." {
		path = ""
	}
	c.compareOpaque(n, path)
	fd, err := disk.Openat(n.parent, n.base, directoryFlags, 0)
	if err != nil {
		c.found.add(path, "it cannot be opened: %v", err)
		return nil
	}
	dir := os.NewFile(uintptr(fd), n.base)
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, name := range names {
			if err := c.visit(ctx, node{parent: fd, dir: path, base: name}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			c.found.add(path, "it cannot be read: %v", err)
			return nil
		}
	}
}

func (c *checker) visit(ctx context.Context, n node) error {
	c.info.Nodes++
	var st unix.Stat_t
	if err := disk.Fstatat(n.parent, n.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		c.found.add(n.path(), "it cannot be examined: %v", err)
		return nil
	}
	role := c.role(n.path())
	switch {
	case role&hasEntry != 0: // compared with its entry
	case role&isImplied != 0:
		c.compareImplied(n)
	case role&isHidden == 0:
		c.found.add(n.path(), "the tar does not have it")
	case !isWhiteout(&st):
		c.found.add(n.path(), "it is no longer a whiteout")
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.walk(ctx, n)
	}
	return nil
}

// compareImplied compares a directory that has no entry of its own.
func (c *checker) compareImplied(n node) {
	c.info.Implied = append(c.info.Implied, []byte(n.path()))
	diffs, err := attributeDifferences(n, impliedDirectory)
	if err != nil {
		diffs = append(diffs, c.found.note(err).Error())
	}
	c.add(n.path(), diffs)
}

// compareOpaque compares what a directory hides of the lower layers: an opaque
// marker and a whiteout of its own name have the same effect.
func (c *checker) compareOpaque(n node, path string) {
	value, err := getXattr(n, opaqueXattr)
	if err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
		c.found.add(path, "its attribute %s cannot be read: %v", opaqueXattr, err)
		return
	}
	want := c.role(path)&(isHidden|isOpaque) != 0
	switch {
	case want && value != "y":
		c.found.add(path, "it is no longer opaque")
	case !want && value != "":
		c.found.add(path, "it is opaque, which the tar does not say")
	}
}
