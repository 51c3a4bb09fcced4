package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/mount/mounttest"
)

// scatter gives a file a content whose pieces are as given: positive numbers are bytes
// of data, each after another header in the device, negative ones are holes.
func (r *tree) scatter(n Node, pieces ...int) {
	r.t.Helper()
	var content []byte
	var extents []Extent
	for i, p := range pieces {
		if p < 0 {
			content = append(content, make([]byte, -p)...)
			extents = append(extents, Extent{Offset: -1, Length: int64(-p)})
			continue
		}
		data := random(uint64(i+p), p)
		content = append(content, data...)
		extents = append(extents, Extent{Offset: r.append(data), Length: int64(p)})
	}
	r.place(n, content, extents...)
}

func TestSparseFiles(t *testing.T) {
	silentKernel(t)
	r := newTree(t)
	for name, pieces := range map[string][]int{
		"hole alone":         {-70000},
		"hole of one byte":   {-1},
		"hole first":         {-4096, 5000},
		"hole last":          {4096, -5000},
		"holes of one block": {512, -512, 512, -512, 100},
		"odd places":         {512 * 3, -512 * 5, 512 * 7, -512, 512 * 64, -1},
		"two pieces":         {1 << 20, 1 << 19, 77},
		"two holes":          {-512, -512, 512},
	} {
		n := r.add(name, unix.S_IFREG|0o644)
		r.scatter(n, pieces...)
		// Attributes are between an inode and its chunks.
		r.must(r.b.SetXattrs(n, map[string]string{"user.name": name}))
	}
	r.scatter(r.add("no attributes", unix.S_IFREG), 512, -1024, 1)
	r.check(mounttest.Dir(t))
}

// Content that the device has not, or not where a block begins, lies in the index.
func TestDataInTheIndex(t *testing.T) {
	silentKernel(t)
	r := newTree(t)
	r.file("before", random(1, 5000))
	own := func(seed uint64, size int) ([]byte, Extent) {
		data := random(seed, size)
		return data, r.b.AddData(data)
	}
	hole, zeros := Extent{Offset: -1, Length: 4096}, make([]byte, 4096)
	for i, size := range []int{1, 511, 512, 513, 70000} {
		data, extent := own(uint64(i), size)
		r.place(r.add(fmt.Sprint("alone", size), unix.S_IFREG), data, extent)
		data, extent = own(uint64(i+10), size)
		r.place(r.add(fmt.Sprint("after a hole", size), unix.S_IFREG), append(slices.Clone(zeros), data...), hole, extent)
	}
	first, one := own(20, 1024)
	second := random(21, 1024)
	two := Extent{Offset: r.append(second), Length: 1024}
	third, three := own(22, 100)
	r.place(r.add("mixed", unix.S_IFREG), slices.Concat(first, second, zeros, third), one, two, hole, three)
	r.dir("large")
	for i := range 100 {
		r.add(fmt.Sprintf("large/%0200d", i), unix.S_IFREG)
	}
	r.check(mounttest.Dir(t))
}

// What continues is one extent, so that a file that a tar has in many pieces one after
// the other is as cheap as any.
func TestPiecesThatFollowEachOtherAreOne(t *testing.T) {
	indexOf := func(extents ...Extent) []byte {
		b := NewBuilder()
		n, err := b.Make(Root, "file", Attr{Mode: unix.S_IFREG})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetContent(n, 5000, extents...); err != nil {
			t.Fatal(err)
		}
		var index bytes.Buffer
		if err := b.Write(&index, 10000); err != nil {
			t.Fatal(err)
		}
		return index.Bytes()
	}
	one := indexOf(Extent{Offset: 1024, Length: 5000})
	many := indexOf(Extent{Offset: 1024, Length: 512}, Extent{Offset: 1536, Length: 0}, Extent{Offset: 1536, Length: 1024}, Extent{Offset: 2560, Length: 5000 - 1536})
	if !bytes.Equal(one, many) {
		t.Error("pieces that follow each other give another index than one piece")
	}
}

// A file of more than 4 GiB, at an offset of more than 1 TiB, in a device of nearly
// 2 TiB that is sparse itself.
func TestFilesAndDevicesAreLarge(t *testing.T) {
	silentKernel(t)
	dir := testFileSystem(t)
	const offset, size, deviceSize = 1<<40 + 512, 5<<30 + 3, 2<<40 - 1024
	device, err := os.Create(filepath.Join(dir, "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if err := device.Truncate(deviceSize); err != nil {
		t.Fatal(err)
	}
	b := NewBuilder()
	n, err := b.Make(Root, "large", Attr{Mode: unix.S_IFREG | 0o644})
	if err == nil {
		err = b.SetContent(n, size, Extent{Offset: offset, Length: size})
	}
	// More than a chunk can be: 1 TiB.
	huge, err2 := b.Make(Root, "huge", Attr{Mode: unix.S_IFREG | 0o644})
	if err := errors.Join(err, err2, b.SetContent(huge, deviceSize-512, Extent{Offset: 512, Length: deviceSize - 512})); err != nil {
		t.Fatal(err)
	}
	// Whose end is in the index, as that of the last file of a tar may have to be.
	const partSize = 1<<30 + 700
	if got := Tail(partSize); got != 700 {
		t.Fatalf("the tail of a file of %d bytes has %d", int64(partSize), got)
	}
	part, err := b.Make(Root, "part", Attr{Mode: unix.S_IFREG | 0o644})
	end := bytes.Repeat([]byte("x"), 700)
	own := b.AddData(end)
	if err := errors.Join(err, b.SetContent(part, partSize, Extent{Offset: offset, Length: partSize - 700}, own)); err != nil {
		t.Fatal(err)
	}
	places := []int64{0, 1<<32 - 2, 1 << 32, size - 3}
	for i, at := range places {
		if _, err := device.WriteAt([]byte{'a' + byte(i), 'b', 'c'}, offset+at); err != nil {
			t.Fatal(err)
		}
	}
	index, err := os.Create(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	if err := b.Write(index, deviceSize); err != nil {
		t.Fatal(err)
	}
	mounted(t, index.Name(), device.Name(), func(at string) {
		f, err := os.Open(filepath.Join(at, "part"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, 703)
		if n, err := f.ReadAt(got, partSize-703); n != len(got) || err != nil || !bytes.Equal(got, append(make([]byte, 3), end...)) {
			t.Errorf("the end of part: %q, %v", got, err)
		}
		for name, shift := range map[string]int64{"large": 0, "huge": offset - 512} {
			f, err := os.Open(filepath.Join(at, name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for i, at := range places {
				got := make([]byte, 3)
				if _, err := f.ReadAt(got, at+shift); err != nil || got[0] != 'a'+byte(i) || got[2] != 'c' {
					t.Errorf("%s at %d: %q, %v", name, at, got, err)
				}
			}
		}
	})
}

// testFileSystem is a directory on a file system that holds files of 2 TiB: ext4 of
// 4 KiB blocks does.
func testFileSystem(t *testing.T) string { return mounttest.FileSystem(t, "ext4") }

func TestRefusedContents(t *testing.T) {
	b := NewBuilder()
	file, err := b.Make(Root, "file", Attr{Mode: unix.S_IFREG})
	if err != nil {
		t.Fatal(err)
	}
	fifo, err := b.Make(Root, "fifo", Attr{Mode: unix.S_IFIFO})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		node    Node
		size    int64
		extents []Extent
		class   error
	}{
		"no regular file":             {fifo, 1, []Extent{{Offset: 0, Length: 1}}, container.ErrInvalid},
		"negative size":               {file, -1, nil, container.ErrInvalid},
		"no extents":                  {file, 1, nil, container.ErrInvalid},
		"extents too short":           {file, 1024, []Extent{{Offset: 0, Length: 512}}, container.ErrInvalid},
		"extents too long":            {file, 511, []Extent{{Offset: 0, Length: 512}}, container.ErrInvalid},
		"sum overflows":               {file, 512, []Extent{{Offset: 0, Length: 512}, {Offset: 0, Length: math.MaxInt64}}, container.ErrInvalid},
		"negative length":             {file, 512, []Extent{{Offset: 0, Length: 1024}, {Offset: 0, Length: -512}}, container.ErrInvalid},
		"negative offset":             {file, 512, []Extent{{Offset: -512, Length: 512}}, container.ErrInvalid},
		"offset is not aligned":       {file, 512, []Extent{{Offset: 511, Length: 512}}, container.ErrNotSupported},
		"place is not aligned":        {file, 512, []Extent{{Offset: -1, Length: 511}, {Offset: 0, Length: 1}}, container.ErrNotSupported},
		"offset beyond all blocks":    {file, 512, []Extent{{Offset: 2 << 40, Length: 512}}, container.ErrNotSupported},
		"exabyte with a hole at 512":  {file, 1 << 60, []Extent{{Offset: 0, Length: 512}, {Offset: -1, Length: 1<<60 - 512}}, container.ErrNotSupported},
		"one chunk more than allowed": {file, 512<<20 + 1, []Extent{{Offset: 0, Length: 512}, {Offset: -1, Length: 512<<20 - 511}}, container.ErrNotSupported},
	} {
		if err := b.SetContent(test.node, test.size, test.extents...); !errors.Is(err, test.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.SetContent(file, 512<<20, Extent{Offset: 0, Length: 512}, Extent{Offset: -1, Length: 512<<20 - 512}); err != nil {
		t.Errorf("as many chunks as allowed: %v", err)
	}
	if err := b.Write(&bytes.Buffer{}, 511); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("content beyond the end of the device: %v", err)
	}
	if err := b.Write(&bytes.Buffer{}, 2<<40); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("device of 2 TiB: %v", err)
	}
}
