package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"berth/container"
)

func TestRefusedEntries(t *testing.T) {
	b := NewBuilder()
	file, err := b.Make(Root, "file", Attr{Mode: syscall.S_IFREG})
	if err != nil {
		t.Fatal(err)
	}
	regular := Attr{Mode: syscall.S_IFREG}
	for name, test := range map[string]struct {
		dir   Node
		name  string
		attr  Attr
		class error
	}{
		"no name":              {Root, "", regular, container.ErrInvalid},
		"dot":                  {Root, ".", regular, container.ErrInvalid},
		"dots":                 {Root, "..", regular, container.ErrInvalid},
		"slash":                {Root, "a/b", regular, container.ErrInvalid},
		"NUL":                  {Root, "a\x00", regular, container.ErrInvalid},
		"name of 256 bytes":    {Root, strings.Repeat("n", 256), regular, container.ErrInvalid},
		"taken":                {Root, "file", regular, container.ErrExists},
		"in a file":            {file, "a", regular, container.ErrInvalid},
		"socket":               {Root, "a", Attr{Mode: syscall.S_IFSOCK}, container.ErrInvalid},
		"no kind":              {Root, "a", Attr{Mode: 0o644}, container.ErrInvalid},
		"mode beyond 16 bits":  {Root, "a", Attr{Mode: 1<<16 | syscall.S_IFREG}, container.ErrInvalid},
		"ns of a whole second": {Root, "a", Attr{Mode: syscall.S_IFREG, Nsec: 1e9}, container.ErrInvalid},
		"major of 13 bits":     {Root, "a", Attr{Mode: syscall.S_IFCHR, Rdev: 1 << 44}, container.ErrInvalid},
		"minor of 21 bits":     {Root, "a", Attr{Mode: syscall.S_IFCHR, Rdev: 1 << 32}, container.ErrInvalid},
	} {
		if _, err := b.Make(test.dir, test.name, test.attr); !errors.Is(err, test.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := b.Lookup(Root, "a"); ok {
		t.Error("what was refused is there")
	}
	if err := b.Link(Root, "link", Root); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("hard link to a directory: %v", err)
	}
	if err := b.Link(Root, "file", file); !errors.Is(err, container.ErrExists) {
		t.Errorf("hard link with a name that is taken: %v", err)
	}
	if err := b.SetAttr(file, Attr{Mode: syscall.S_IFDIR}); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("another kind: %v", err)
	}
	for _, target := range []string{"", "a\x00", strings.Repeat("t", 4096)} {
		link, err := b.Make(Root, fmt.Sprint("link", len(target)), Attr{Mode: syscall.S_IFLNK})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetTarget(link, target); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("target of %d bytes: %v", len(target), err)
		}
	}
	if err := b.Write(io.Discard, 0); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("a link without a target: %v", err)
	}
}

func TestRefusedXattrs(t *testing.T) {
	b := NewBuilder()
	const acl = "\x02\x00\x00\x00"
	names := map[string]string{}
	for i := range 300 {
		names[fmt.Sprintf("user.%03d%s", i, strings.Repeat("n", 240))] = ""
	}
	values := map[string]string{}
	for i := range 5 {
		values[fmt.Sprint("user.", i)] = strings.Repeat("v", 60000)
	}
	for name, xattrs := range map[string]map[string]string{
		"unknown prefix":           {"system.nfs4_acl": "x"},
		"no prefix":                {"name": "x"},
		"prefix alone":             {"user.": "x"},
		"longer than an ACL":       {"system.posix_acl_access.": acl},
		"name of 256 bytes":        {"user." + strings.Repeat("n", 251): "x"},
		"NUL":                      {"user.a\x00": "x"},
		"value of 64 KiB":          {"user.a": strings.Repeat("v", 1<<16)},
		"list longer than 64 KiB":  names,
		"more than an inode holds": values,
		"ACL without a version":    {"system.posix_acl_access": ""},
		"ACL of another version":   {"system.posix_acl_access": "\x01\x00\x00\x00"},
		"half an entry":            {"system.posix_acl_access": acl + "\x01\x00\x07\x00"},
		"unknown tag":              {"system.posix_acl_default": acl + "\x03\x00\x07\x00\x00\x00\x00\x00"},
		"no tag":                   {"system.posix_acl_default": acl + "\x00\x00\x07\x00\x00\x00\x00\x00"},
		"capability of version 1":  {"security.capability": "\x01\x00\x00\x01" + strings.Repeat("\x00", 8)},
		"capability of user 0":     {"security.capability": "\x01\x00\x00\x03" + strings.Repeat("\x00", 20)},
		"capability too short":     {"security.capability": "\x01\x00\x00\x02"},
		"empty capability":         {"security.capability": ""},
		"unknown permission":       {"system.posix_acl_default": acl + "\x01\x00\x08\x00\x00\x00\x00\x00"},
	} {
		if err := b.SetXattrs(Root, xattrs); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for kind, name := range map[uint32]string{
		syscall.S_IFLNK: "user.a", syscall.S_IFIFO: "user.a", syscall.S_IFCHR: "user.a", syscall.S_IFREG: "system.posix_acl_default",
	} {
		n, err := b.Make(Root, fmt.Sprint(kind), Attr{Mode: kind})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetXattrs(n, map[string]string{name: acl}); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s of kind %#o: %v", name, kind, err)
		}
	}
	if len(b.Xattrs(Root)) != 0 {
		t.Errorf("what was refused is there: %q", b.Xattrs(Root))
	}
	if err := b.SetXattrs(Root, map[string]string{"system.posix_acl_access": acl, "user.a": "b"}); err != nil {
		t.Fatal(err)
	}
	if got := b.Xattrs(Root); len(got) != 1 || got["user.a"] != "b" {
		t.Errorf("with an ACL without entries: %q", got)
	}
}

// The same tree is the same bytes, however it came about.
func TestSameTreeSameBytes(t *testing.T) {
	const entries = 500
	build := func(order []int) []byte {
		b := NewBuilder()
		made := map[int]Node{}
		var file func(i int) Node
		file = func(i int) Node {
			if n, ok := made[i]; ok {
				return n
			}
			dir, mode := Root, uint32(syscall.S_IFREG)
			if i > 0 {
				dir = file((i - 1) / 5 * 5 / 2 / 5 * 5) // of those before it, each fifth is a directory
			}
			if i%5 == 0 {
				mode = syscall.S_IFDIR
			}
			n, err := b.Make(dir, fmt.Sprint("name", i), Attr{Mode: mode, Sec: int64(i)})
			if err == nil && i%5 == 1 {
				err = b.SetContent(n, 600, Extent{Offset: int64(i) * 1024, Length: 600})
			}
			if err == nil && i%5 < 3 {
				err = b.SetXattrs(n, map[string]string{"user.a": fmt.Sprint(i % 7), "trusted.b": "c"})
			}
			if err == nil && i%5 == 2 {
				err = b.Link(Root, fmt.Sprint("link", i), n)
			}
			if err != nil {
				t.Fatal(err)
			}
			made[i] = n
			return n
		}
		for _, i := range order {
			file(i)
		}
		var index bytes.Buffer
		if err := b.Write(&index, 1<<20); err != nil {
			t.Fatal(err)
		}
		again := bytes.Buffer{}
		if err := b.Write(&again, 1<<20); err != nil || !bytes.Equal(index.Bytes(), again.Bytes()) {
			t.Errorf("written twice, it is not the same: %v", err)
		}
		return index.Bytes()
	}
	up, down, mixed := make([]int, entries), make([]int, entries), make([]int, entries)
	for i := range entries {
		up[i], down[i], mixed[i] = i, entries-1-i, i*7%entries
	}
	want := build(up)
	for name, order := range map[string][]int{"from the end": down, "mixed": mixed} {
		if !bytes.Equal(want, build(order)) {
			t.Errorf("built %s, the bytes are others", name)
		}
	}
	// And that the order counts for nothing is not because the tree does.
	if bytes.Equal(want, build(up[:entries-1])) {
		t.Error("another tree has the same bytes")
	}
}
