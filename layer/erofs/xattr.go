package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strings"
	"syscall"

	"berth/container"
)

// xattrPrefixes are the beginnings of names that EROFS has numbers for.
var xattrPrefixes = []struct {
	prefix string
	number byte
	whole  bool // the prefix is the name
}{
	{"user.", 1, false},
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

const (
	xattrHeader = 12 // before the entries of an inode
	maxXattr    = 255
	maxValue    = 65535
	// maxXattrs is what the kernel lists of one inode, names and NULs.
	maxXattrs = 65536
	// maxBody is what the count in an inode can say, in words of 4 bytes.
	maxBody = (65535 - 1) * 4
)

// bodies are the encoded attributes of inodes. Inodes with the same share a body, mostly.
type bodies struct {
	text  *texts
	list  pages[body]
	seed  maphash.Seed
	known map[uint64]uint32 // numbers of the last ones, by hashes
}

// body is where the text of a body is.
type body struct{ text, length uint32 }

// maxKnown bounds the memory for finding bodies again: where many are different, each file has a
// signature of its own, say, and there is nothing to be found.
const maxKnown = 1 << 14

func (b *bodies) init(t *texts) { b.text, b.list.memory, b.seed = t, t.memory, maphash.MakeSeed() }

// number returns a body's number, which is not 0.
func (b *bodies) number(text []byte) (uint32, error) {
	hash := maphash.Bytes(b.seed, text)
	if n, ok := b.known[hash]; ok && bytes.Equal(b.at(n), text) {
		return n, nil
	}
	at, err := b.text.add(string(text))
	if err != nil {
		return 0, err
	}
	if b.known == nil || len(b.known) == maxKnown {
		b.known = make(map[uint64]uint32)
	}
	n := b.list.add(body{at, uint32(len(text))}) + 1
	b.known[hash] = n
	return n, nil
}

func (b *bodies) at(number uint32) []byte {
	if number == 0 {
		return nil
	}
	one := b.list.at(number - 1)
	return b.text.at(one.text, int(one.length))
}

// size is the length of at(number).
func (b *bodies) size(number uint32) int64 {
	if number == 0 {
		return 0
	}
	return int64(b.list.at(number - 1).length)
}

// SetXattrs sets the extended attributes of an inode in place of those that it has.
// Names are whole ones: of user, trusted and security, and the two access control
// lists, of which one without entries is none, as for setxattr(2). What the kernel
// would not return as it is, is refused with container.ErrInvalid, as setxattr(2)
// refuses it: user.* of a link or a device, say.
func (b *Builder) SetXattrs(n Node, xattrs map[string]string) error {
	i := b.nodes.at(uint32(n))
	var body []byte
	var list int
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		value := xattrs[name]
		number, rest, err := splitXattr(name)
		if err != nil {
			return err
		}
		if len(value) > maxValue {
			return fmt.Errorf("%w: extended attribute %s of %d bytes; at most %d", container.ErrInvalid, quote(name), len(value), maxValue)
		}
		if err := checkXattr(i, name, value); err != nil {
			return fmt.Errorf("extended attribute %s: %w", quote(name), err)
		}
		if rest == "" && len(value) == aclHeader {
			continue
		}
		list += len(name) + 1
		body = append(body, byte(len(rest)), number)
		body = append16(body, uint16(len(value)))
		body = append(append(body, rest...), value...)
		body = append(body, make([]byte, -len(body)&3)...)
	}
	if list > maxXattrs || len(body) > maxBody {
		return fmt.Errorf("%w: %d extended attributes, names of %d bytes (at most %d), %d bytes in all (at most %d)",
			container.ErrInvalid, len(xattrs), list, maxXattrs, len(body), maxBody)
	}
	if len(body) == 0 {
		i.xattrs = 0
		return nil
	}
	made, err := b.bodies.number(body)
	if err != nil {
		return err
	}
	i.xattrs = made
	return nil
}

// AddXattr sets one extended attribute, see SetXattrs.
func (b *Builder) AddXattr(n Node, name, value string) error {
	xattrs := b.Xattrs(n)
	xattrs[name] = value
	return b.SetXattrs(n, xattrs)
}

// Xattrs returns the extended attributes of an inode, in a map of the caller's own.
func (b *Builder) Xattrs(n Node) map[string]string {
	xattrs := map[string]string{}
	for body := b.bodies.at(b.nodes.at(uint32(n)).xattrs); len(body) > 0; {
		nameEnd := 4 + int(body[0])
		end := nameEnd + int(binary.LittleEndian.Uint16(body[2:4]))
		for _, p := range xattrPrefixes {
			if p.number == body[1] {
				xattrs[p.prefix+string(body[4:nameEnd])] = string(body[nameEnd:end])
			}
		}
		body = body[(end+3)&^3:]
	}
	return xattrs
}

// splitXattr returns the number of a name's prefix and the rest of the name.
func splitXattr(name string) (number byte, rest string, err error) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if !ok || p.whole != (rest == "") {
			continue
		}
		if len(name) > maxXattr || strings.ContainsRune(name, 0) {
			break
		}
		return p.number, rest, nil
	}
	return 0, "", fmt.Errorf("%w: %s is no name of an extended attribute that EROFS has: user.*, trusted.*, security.* or an access control list, of at most %d bytes",
		container.ErrInvalid, quote(name), maxXattr)
}

// checkXattr refuses what the kernel interprets and would not return.
func checkXattr(n *node, name, value string) error {
	kind := n.kind()
	switch {
	case strings.HasPrefix(name, "user.") && kind != syscall.S_IFREG && kind != syscall.S_IFDIR:
		return fmt.Errorf("%w: only regular files and directories have those of users", container.ErrInvalid)
	case name == "system.posix_acl_default" && kind != syscall.S_IFDIR, name == "system.posix_acl_access" && kind == syscall.S_IFLNK:
		return fmt.Errorf("%w: not of this kind of file (mode %#o)", container.ErrInvalid, n.mode)
	case strings.HasPrefix(name, "system."):
		return checkACL(value)
	case name == "security.capability":
		return checkCapability(value)
	}
	return nil
}

// checkCapability takes the two forms that the kernel returns as they are, see
// struct vfs_ns_cap_data of Linux: of any user namespace, and of that whose root is
// the user at the end. That of user 0 it returns in the first form.
func checkCapability(value string) error {
	if len(value) >= 4 {
		revision := binary.LittleEndian.Uint32([]byte(value)) &^ 1 // the flag "effective"
		switch {
		case len(value) == 20 && revision == 2<<24:
			return nil
		case len(value) == 24 && revision == 3<<24:
			if root := binary.LittleEndian.Uint32([]byte(value[20:])); root != 0 && root != math.MaxUint32 {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: no file capability of version 2 or 3 (%d bytes)", container.ErrInvalid, len(value))
}

// Of an access control list, see posix_acl_xattr.h of Linux.
const (
	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8
	aclTags    = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20
)

// checkACL refuses what the kernel could not read: it would then fail every access to
// the file.
func checkACL(value string) error {
	list := []byte(value)
	if len(list) < aclHeader || len(list)%aclEntry != aclHeader || binary.LittleEndian.Uint32(list) != aclVersion {
		return fmt.Errorf("%w: no access control list of version %d", container.ErrInvalid, aclVersion)
	}
	for list = list[aclHeader:]; len(list) > 0; list = list[aclEntry:] {
		tag, perm := binary.LittleEndian.Uint16(list), binary.LittleEndian.Uint16(list[2:])
		if tag&(tag-1) != 0 || tag&aclTags == 0 || perm > 7 {
			return fmt.Errorf("%w: access control list with the tag %#x and permissions %#o", container.ErrInvalid, tag, perm)
		}
	}
	return nil
}
