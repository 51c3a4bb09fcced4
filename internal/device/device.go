//go:build linux

// Package device has device nodes as rules of access: which devices, and what may be
// done with them. The device cgroup of v1 and the programs of v2 both carry out such
// rules (Documentation/admin-guide/cgroup-v1/devices.rst).
package device

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/container"
)

// Kind is what open(2) makes of a node: a character or a block device.
type Kind byte

// The kinds, by the kernel's letters.
const (
	Char  Kind = 'c'
	Block Kind = 'b'
)

// Access is a set of what may be done with a device. The bits are those of
// BPF_DEVCG_ACC_* in <linux/bpf.h>.
type Access uint8

// What may be done.
const (
	Mknod Access = 1 << iota
	Read
	Write
	All = Mknod | Read | Write
)

// String returns the kernel's letters, as "rwm".
func (a Access) String() string {
	var s strings.Builder
	for _, letter := range []struct {
		access Access
		text   string
	}{{Read, "r"}, {Write, "w"}, {Mknod, "m"}} {
		if a&letter.access != 0 {
			s.WriteString(letter.text)
		}
	}
	return s.String()
}

// Any stands for every number.
const Any = math.MaxUint32

// Device is a device, or with Any several.
type Device struct {
	Kind         Kind
	Major, Minor uint32
}

// Rule allows something.
type Rule struct {
	Device
	Access Access
}

// String returns the rule as devices.allow takes it: "c 1:3 rwm".
func (r Rule) String() string {
	return fmt.Sprintf("%c %s:%s %s", r.Kind, number(r.Major), number(r.Minor), r.Access)
}

func number(n uint32) string {
	if n == Any {
		return "*"
	}
	return strconv.FormatUint(uint64(n), 10)
}

// ParseRule reads what String returns, which is also a line of devices.list.
func ParseRule(text string) (Rule, error) {
	var r Rule
	wrong := func() (Rule, error) { return Rule{}, fmt.Errorf("device rule %q: %w", text, container.ErrInvalid) }
	fields := strings.Fields(text)
	if len(fields) != 3 || fields[0] != "c" && fields[0] != "b" {
		return wrong()
	}
	r.Kind = Kind(fields[0][0])
	major, minor, _ := strings.Cut(fields[1], ":")
	for to, text := range map[*uint32]string{&r.Major: major, &r.Minor: minor} {
		n, err := strconv.ParseUint(text, 10, 32)
		if text == "*" {
			n, err = Any, nil
		}
		if err != nil {
			return wrong()
		}
		*to = uint32(n)
	}
	for _, letter := range fields[2] {
		switch letter {
		case 'r':
			r.Access |= Read
		case 'w':
			r.Access |= Write
		case 'm':
			r.Access |= Mknod
		default:
			return wrong()
		}
	}
	return r, nil
}

// Standard are the rules for every container: it may make all nodes, as tools that unpack
// archives do, and open those that harm nobody.
func Standard() []Rule {
	rules := []Rule{{Device{Char, Any, Any}, Mknod}, {Device{Block, Any, Any}, Mknod}}
	for _, d := range []struct{ major, minor uint32 }{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{4, 0}, {4, 1}, {5, 0}, {5, 1}, {5, 2}, // tty0, tty1, tty, console, ptmx
		{136, Any}, // pts/*
		{10, 200},  // net/tun
	} {
		rules = append(rules, Rule{Device{Char, d.major, d.minor}, All})
	}
	return rules
}

// Normalize returns the rules sorted, with one for each Device that has what all of them
// have together.
func Normalize(rules []Rule) []Rule {
	together := make(map[Device]Access)
	for _, r := range rules {
		together[r.Device] |= r.Access
	}
	normal := make([]Rule, 0, len(together))
	for d, access := range together {
		normal = append(normal, Rule{d, access})
	}
	slices.SortFunc(normal, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
	return normal
}

// Resolve finds the device that a message names, by a path or by its number, on this host.
// ErrInvalid: there is none, or the number is that of two.
func Resolve(d *v1.Device) (Device, error) {
	switch {
	case d.GetPath() != "" && d.Number != nil:
		return Device{}, fmt.Errorf("device %s: %w: name it by its path or by its number", d.GetPath(), container.ErrInvalid)
	case d.GetPath() != "":
		return Stat(d.GetPath())
	case d.Number != nil:
		return find(d.GetNumber())
	}
	return Device{}, fmt.Errorf("a device without path and number: %w", container.ErrInvalid)
}

// Stat returns the device that an absolute path of the host leads to.
func Stat(path string) (Device, error) {
	if !filepath.IsAbs(path) {
		return Device{}, fmt.Errorf("device %q: %w: it is not an absolute path", path, container.ErrInvalid)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, fmt.Errorf("device %s: %w: %w", path, container.ErrInvalid, err)
	}
	d := Device{Major: unix.Major(uint64(st.Rdev)), Minor: unix.Minor(uint64(st.Rdev))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Kind = Char
	case unix.S_IFBLK:
		d.Kind = Block
	default:
		return Device{}, fmt.Errorf("device %s: %w: this is no device", path, container.ErrInvalid)
	}
	return d, nil
}

// find looks for a device of a number among the drivers' (sysfs). Character and block
// devices have numbers of their own.
func find(n *v1.Device_Number) (Device, error) {
	var found []Device
	name := fmt.Sprintf("%d:%d", n.GetMajorNumber(), n.GetMinorNumber())
	for kind, dir := range map[Kind]string{Char: "char", Block: "block"} {
		_, err := os.Lstat(filepath.Join("/sys/dev", dir, name))
		if err == nil {
			found = append(found, Device{kind, uint32(n.GetMajorNumber()), uint32(n.GetMinorNumber())})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return Device{}, err
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Device{}, fmt.Errorf("device %s: %w: this host has none of this number", name, container.ErrInvalid)
	}
	return Device{}, fmt.Errorf("device %s: %w: a character and a block device have this number: name it by its path", name, container.ErrInvalid)
}

// Rules returns what messages allow. ErrInvalid: a device that there is not, or no access.
func Rules(allowed []*v1.DeviceAccess) (rules []Rule, err error) {
	for _, a := range allowed {
		d, err := Resolve(a.GetDevice())
		if err != nil {
			return nil, err
		}
		access := AccessOf(a.GetAccess())
		if access == 0 {
			return nil, fmt.Errorf("device %s: %w: it has no access: say read, write or mknod", nameOf(a.GetDevice()), container.ErrInvalid)
		}
		rules = append(rules, Rule{d, access})
	}
	return rules, nil
}

// AccessOf returns the set that a message says.
func AccessOf(a *v1.DeviceAccess_Access) (access Access) {
	for bit, said := range map[Access]bool{Read: a.GetRead(), Write: a.GetWrite(), Mknod: a.GetMknod()} {
		if said {
			access |= bit
		}
	}
	return access
}

func nameOf(d *v1.Device) string {
	if d.GetPath() != "" {
		return d.GetPath()
	}
	return fmt.Sprintf("%d:%d", d.GetNumber().GetMajorNumber(), d.GetNumber().GetMinorNumber())
}
