package erofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
)

// fataler is a *testing.T or a *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// tree is a Builder with what its file system should show, and the device.
type tree struct {
	t       fataler
	b       *Builder
	device  []byte
	nodes   map[string]Node
	content map[Node][]byte
	extents map[Node][]Extent
	target  map[Node]string
}

func newTree(t fataler) *tree { return newTreeOf(t, newBuilder(blockBits)) }

func newTreeOf(t fataler, b *Builder) *tree {
	return &tree{t: t, b: b, nodes: map[string]Node{".": Root}, content: map[Node][]byte{}, extents: map[Node][]Extent{}, target: map[Node]string{}}
}

func (r *tree) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v", err)
	}
}

// add makes an entry with attributes of its own.
func (r *tree) add(name string, mode uint32) Node {
	r.t.Helper()
	return r.addAs(name, Attr{Mode: mode, UID: uint32(len(r.nodes)), GID: 70000, Sec: 1e9 + int64(len(r.nodes)), Nsec: 123456789})
}

func (r *tree) addAs(name string, a Attr) Node {
	r.t.Helper()
	n, err := r.b.Make(r.nodes[path.Dir(name)], path.Base(name), a)
	r.must(err)
	r.nodes[name] = n
	return n
}

func (r *tree) dir(name string) Node { r.t.Helper(); return r.add(name, unix.S_IFDIR|0o755) }

func (r *tree) file(name string, content []byte) Node {
	r.t.Helper()
	n := r.add(name, unix.S_IFREG|0o644)
	r.put(n, content)
	return n
}

func (r *tree) symlink(name, target string) Node {
	r.t.Helper()
	n := r.add(name, unix.S_IFLNK|0o777)
	r.must(r.b.SetTarget(n, target))
	r.target[n] = target
	return n
}

func (r *tree) link(name, target string) {
	r.t.Helper()
	r.must(r.b.Link(r.nodes[path.Dir(name)], path.Base(name), r.nodes[target]))
	r.nodes[name] = r.nodes[target]
}

func (r *tree) remove(name string) {
	r.b.Remove(r.nodes[path.Dir(name)], path.Base(name))
	for other := range r.nodes {
		if other == name || strings.HasPrefix(other, name+"/") {
			delete(r.nodes, other)
		}
	}
}

// put gives a file a content that lies in one piece in the device.
func (r *tree) put(n Node, content []byte) {
	r.t.Helper()
	r.place(n, content, Extent{Offset: r.append(content), Length: int64(len(content))})
}

func (r *tree) place(n Node, content []byte, extents ...Extent) {
	r.t.Helper()
	r.must(r.b.SetContent(n, int64(len(content)), extents...))
	r.content[n], r.extents[n] = content, extents
}

// append adds a content to the device as tar does, and returns where.
func (r *tree) append(content []byte) int64 {
	block := 1 << r.b.bits
	r.device = append(r.device, bytes.Repeat([]byte{0xee}, block)...) // a header
	at := int64(len(r.device))
	r.device = append(r.device, content...)
	r.device = append(r.device, make([]byte, -len(content)&(block-1))...)
	return at
}

// want is what the file system should show.
func (r *tree) want() []testrig.Entry {
	links := map[Node]uint64{}
	first := map[Node]string{}
	paths := slices.Sorted(maps.Keys(r.nodes))
	for _, p := range paths {
		n := r.nodes[p]
		links[n]++
		if _, ok := first[n]; !ok {
			first[n] = p
		}
	}
	var entries []testrig.Entry
	for _, p := range paths {
		n := r.nodes[p]
		a := r.b.Attr(n)
		e := testrig.Entry{
			Path: p, Type: a.Mode & unix.S_IFMT, Mode: a.Mode &^ unix.S_IFMT, UID: a.UID, GID: a.GID,
			MTime: time.Unix(a.Sec, int64(a.Nsec)).UTC(), Links: links[n], First: first[n], Target: r.target[n],
		}
		switch e.Type {
		case unix.S_IFDIR:
			e.Links = 0
		case unix.S_IFREG:
			sum := sha256.Sum256(r.content[n])
			e.Size, e.Digest = int64(len(r.content[n])), hex.EncodeToString(sum[:])
		case unix.S_IFCHR, unix.S_IFBLK:
			e.Rdev = fmt.Sprintf("%d:%d", unix.Major(a.Rdev), unix.Minor(a.Rdev))
		}
		if xattrs := r.b.Xattrs(n); len(xattrs) > 0 {
			for name := range xattrs {
				if testrig.IgnoredXattr(name) {
					delete(xattrs, name)
				}
			}
			e.Xattrs = xattrs
			if len(xattrs) == 0 {
				e.Xattrs = nil
			}
		}
		entries = append(entries, e)
	}
	return entries
}

func (r *tree) index() []byte {
	r.t.Helper()
	var index bytes.Buffer
	r.must(r.b.Write(&index, int64(len(r.device))))
	return index.Bytes()
}

// files writes index and device below a directory.
func (r *tree) files(dir string) (index, device string) {
	r.t.Helper()
	index, device = filepath.Join(dir, "index"), filepath.Join(dir, "tar")
	r.must(os.WriteFile(index, r.index(), 0o600))
	r.must(os.WriteFile(device, r.device, 0o600))
	return index, device
}

// check mounts the tree and compares it with what it should be; so it does with what
// go-erofs reads.
func (r *tree) check(dir string) {
	r.t.Helper()
	index, device := r.files(dir)
	r.checkGoErofs(index, device)
	mounted(r.t, index, device, func(at string) {
		got, err := testrig.Manifest(at)
		r.must(err)
		for _, diff := range testrig.Compare(r.want(), got) {
			r.t.Errorf("%s", diff)
		}
	})
}

// mounted calls f with a directory where the file system is mounted until f returns.
func mounted(t fataler, index, device string, f func(at string)) {
	t.Helper()
	for _, name := range []string{index, device} {
		if err := flush(name); err != nil {
			t.Fatalf("%v", err)
		}
	}
	d, err := mount.New("erofs", index, []mount.Option{{Key: "ro"}, {Key: "device", Value: device}}, mount.ReadOnly)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer d.Close()
	at, err := os.MkdirTemp("", "erofs")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer os.Remove(at)
	if err := d.Attach(at); err != nil {
		t.Fatalf("%v", err)
	}
	defer func() {
		if err := mount.Detach(at); err != nil {
			t.Errorf("%v", err)
		}
	}()
	f(at)
}

func flush(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// random returns bytes that are the same for the same seed.
func random(seed uint64, size int) []byte {
	content := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	source.Read(content)
	return content
}

// silentKernel fails the test if the kernel has anything to say about EROFS, or about
// layers of an overlay with one identity, that is a warning or worse. It is not of this test alone, so no other test of the machine may
// provoke any; but that something is no EROFS at all is what `berth info` asks the kernel to find, and a test that mounts such fails by
// that itself.
func silentKernel(tb testing.TB) {
	tb.Helper()
	mounttest.RequireRoot(tb)
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("open /dev/kmsg: %v", err)
	}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		defer unix.Close(fd)
		record := make([]byte, 8192)
		for {
			n, err := unix.Read(fd, record)
			if err == unix.EPIPE { // overwritten before it was read
				continue
			}
			if err != nil {
				return
			}
			priority, text, _ := strings.Cut(string(record[:n]), ",")
			level, _ := strconv.Atoi(priority)
			if level&7 <= 4 && !strings.Contains(text, "cannot find valid erofs superblock") && (strings.Contains(text, "erofs") || strings.Contains(text, "uuid detected in lower fs")) {
				tb.Errorf("the kernel says: %s", text)
			}
		}
	})
}
