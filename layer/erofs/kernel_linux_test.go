package erofs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
)

// everything is a tree with what a layer can have.
func everything(r *tree) {
	r.must(r.b.SetAttr(Root, Attr{Mode: unix.S_IFDIR | 0o751, UID: 5, GID: 6, Sec: 1234567890, Nsec: 999999999}))
	r.dir("etc")
	r.file("etc/passwd", []byte("root:x:0:0::/:/bin/sh\n"))
	r.file("etc/empty", nil)
	for _, size := range []int{1, 511, 512, 513, 1024, 4095, 4096, 4097, 100000, 3 << 20} {
		r.file("etc/"+strings.Repeat("x", size%200+1), random(uint64(size), size))
	}
	r.link("hard", "etc/passwd")
	r.link("etc/harder", "etc/passwd")
	for _, length := range []int{1, 60, 447, 448, 449, 480, 511, 512, 513, 1023, 1024, 4095} {
		r.symlink("etc/link"+strings.Repeat("l", length%100), strings.Repeat("t", length))
	}
	r.addAs("null", Attr{Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 3)})
	r.addAs("whiteout", Attr{Mode: unix.S_IFCHR, Rdev: 0})
	r.addAs("large", Attr{Mode: unix.S_IFBLK | 0o600, Rdev: unix.Mkdev(4095, 1<<20-1)})
	r.add("fifo", unix.S_IFIFO|0o644)
	r.add("setuid", unix.S_IFREG|0o6755)
	r.add("sticky", unix.S_IFDIR|0o1777)
	r.addAs("before 1970", Attr{Mode: unix.S_IFREG, UID: 1<<32 - 2, GID: 1<<32 - 2, Sec: -1, Nsec: 1})
	r.addAs("long before", Attr{Mode: unix.S_IFREG, Sec: -1 << 33, Nsec: 999999999})
	r.addAs("far future", Attr{Mode: unix.S_IFREG, Sec: 1 << 40})
	for _, name := range []string{"-", "!", "..a", ".-", "...", ".a", "\xff", "\x01", strings.Repeat("n", 255), strings.Repeat("ä", 127)} {
		r.file(name, []byte(name))
	}

	r.dir("xattrs")
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	r.must(r.b.SetXattrs(r.file("xattrs/capability", []byte("c")), map[string]string{"security.capability": capability}))
	r.must(r.b.AddXattr(r.file("xattrs/same", []byte("c")), "security.capability", capability))
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	r.must(r.b.SetXattrs(r.dir("xattrs/acl"), map[string]string{"system.posix_acl_access": acl, "system.posix_acl_default": acl}))
	many := map[string]string{"user.empty": "", "user." + strings.Repeat("n", 250): "long", "trusted.bytes": "\x00\xff", "user.large": string(random(1, 65535))}
	r.must(r.b.SetXattrs(r.dir("xattrs/many"), many))
	for name := range 40 {
		r.file("xattrs/many/"+strings.Repeat("m", name+1), random(uint64(name), name))
	}
	r.must(r.b.SetXattrs(r.symlink("xattrs/link", strings.Repeat("t", 400)), map[string]string{"trusted.large": strings.Repeat("v", 5000)}))
	r.must(r.b.SetXattrs(r.add("xattrs/fifo", unix.S_IFIFO), map[string]string{"trusted.a": "b", "security.x": "y"}))

	// What was removed is not there, and what came back is.
	r.file("etc/gone", []byte("gone"))
	r.link("etc/gone too", "etc/gone")
	r.remove("etc/gone")
	r.dir("was")
	r.dir("was/dir")
	r.link("was/dir/another of passwd", "etc/passwd")
	r.remove("was")
	r.file("was", []byte("a file now"))
}

func TestKernelAndGoErofsShowWhatWasBuilt(t *testing.T) {
	silentKernel(t)
	r := newTree(t)
	everything(r)
	r.check(mounttest.Dir(t))
}

// Where the kernel takes no files, it takes loop devices.
func TestOverLoopDevices(t *testing.T) {
	silentKernel(t)
	testrig.RequireTools(t, "losetup")
	r := newTree(t)
	everything(r)
	index, device := r.files(mounttest.Dir(t))
	mounted(t, loopDevice(t, index), loopDevice(t, device), func(at string) {
		got, err := testrig.Manifest(at)
		r.must(err)
		for _, diff := range testrig.Compare(r.want(), got) {
			t.Error(diff)
		}
	})
}

func loopDevice(t *testing.T, file string) string {
	out, err := exec.Command("losetup", "--read-only", "--show", "--find", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", loop).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return loop
}

// 100 000 names, each found.
func TestLargeDirectory(t *testing.T) {
	silentKernel(t)
	r := newTree(t)
	r.dir("large")
	name := func(i int) string { return fmt.Sprintf("%d-%s", i*7919%100000, strings.Repeat("n", i%40)) }
	for i := range 100000 {
		if _, err := r.b.Make(r.nodes["large"], name(i), Attr{Mode: unix.S_IFREG, UID: uint32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	index, device := r.files(mounttest.Dir(t))
	mounted(t, index, device, func(at string) {
		list, err := os.ReadDir(filepath.Join(at, "large"))
		if err != nil || len(list) != 100000 {
			t.Errorf("%d names listed, %v", len(list), err)
		}
		for i := range 100000 {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(at, "large", name(i)), &st); err != nil || st.Uid != uint32(i) {
				t.Fatalf("%s: uid %d, %v", name(i), st.Uid, err)
			}
		}
		if err := unix.Lstat(filepath.Join(at, "large", "another"), &unix.Stat_t{}); err != unix.ENOENT {
			t.Errorf("a name that is not there: %v", err)
		}
	})
}

// Each block has room for one name only; so has the place beside the inode.
func TestLongNamesEverywhere(t *testing.T) {
	silentKernel(t)
	r := newTree(t)
	dir := "."
	for depth := range 5 {
		for i := range 10 {
			r.file(path.Join(dir, fmt.Sprintf("%d%s", i, strings.Repeat("l", 254-depth))), []byte{byte(i)})
		}
		dir = path.Join(dir, strings.Repeat("d", 255-depth))
		r.dir(dir)
	}
	r.check(mounttest.Dir(t))
}

// A directory's names may end anywhere in a block, also at its end.
func TestDirectoriesOfEverySize(t *testing.T) {
	silentKernel(t)
	r := newTree(t)
	for last := 1; last <= 255; last++ {
		dir := fmt.Sprintf("dir%d", last)
		r.dir(dir)
		r.add(path.Join(dir, strings.Repeat("a", 200)), unix.S_IFREG)
		r.add(path.Join(dir, strings.Repeat("b", last)), unix.S_IFREG)
		if last%3 == 0 {
			r.must(r.b.AddXattr(r.nodes[dir], "user.a", strings.Repeat("v", last%32)))
		}
	}
	r.check(mounttest.Dir(t))
}

// Whiteouts and opaque directories mean to overlayfs what they should, and it has
// nothing against two layers.
func TestOverlay(t *testing.T) {
	silentKernel(t)
	lower, upper := newTree(t), newTree(t)
	lower.b.SetUUID([16]byte{1})
	upper.b.SetUUID([16]byte{2})
	for _, name := range []string{"kept", "removed", "replaced"} {
		lower.file(name, []byte("lower"))
	}
	lower.dir("opaque")
	lower.file("opaque/hidden", nil)
	lower.dir("merged")
	lower.file("merged/lower", nil)
	upper.addAs("removed", Attr{Mode: unix.S_IFCHR})
	upper.file("replaced", []byte("upper"))
	upper.must(upper.b.SetXattrs(upper.dir("opaque"), map[string]string{"trusted.overlay.opaque": "y", "trusted.overlay.origin": ""}))
	upper.file("opaque/new", nil)
	upper.dir("merged")
	upper.file("merged/upper", nil)

	dir := mounttest.Dir(t)
	lowerDir, upperDir, target := filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "overlay")
	for _, d := range []string{lowerDir, upperDir, target, filepath.Join(dir, "u"), filepath.Join(dir, "w")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lowerIndex, lowerDevice := lower.files(lowerDir)
	upperIndex, upperDevice := upper.files(upperDir)
	mounted(t, lowerIndex, lowerDevice, func(l string) {
		mounted(t, upperIndex, upperDevice, func(u string) {
			overlay := mount.Overlay{Lowers: []string{u, l}, Upper: filepath.Join(dir, "u"), Work: filepath.Join(dir, "w"), Links: filepath.Join(dir, "links")}
			if err := overlay.Attach(target); err != nil {
				t.Fatal(err)
			}
			defer mount.Detach(target)
			var got []string
			if err := filepath.WalkDir(target, func(name string, d fs.DirEntry, err error) error {
				got = append(got, strings.TrimPrefix(name, target))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			want := []string{"", "/kept", "/merged", "/merged/lower", "/merged/upper", "/opaque", "/opaque/new", "/replaced"}
			if !slices.Equal(got, want) {
				t.Errorf("the overlay has %q, not %q", got, want)
			}
			if content, err := os.ReadFile(filepath.Join(target, "replaced")); err != nil || string(content) != "upper" {
				t.Errorf("replaced: %q, %v", content, err)
			}
			if err := os.WriteFile(filepath.Join(target, "kept"), []byte("written"), 0o600); err != nil {
				t.Error(err)
			}
		})
	})
}

// The kernel looks at the checksum.
func TestChecksumIsChecked(t *testing.T) {
	mounttest.RequireRoot(t)
	r := newTree(t)
	index, device := r.files(mounttest.Dir(t))
	content, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	content[superOffset+superSize+deviceSlotSize+5]++ // of what follows
	if err := os.WriteFile(index, content, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := mount.New("erofs", index, []mount.Option{{Key: "device", Value: device}}, mount.ReadOnly)
	if err == nil {
		d.Close()
		t.Error("an index with a wrong checksum was mounted")
	}
}

// fsck.erofs of Debian 12 knows blocks of 4 KiB only. The writer is the same.
func TestFsckHasNothingToSay(t *testing.T) {
	testrig.RequireTools(t, "fsck.erofs", "dump.erofs")
	r := newTreeOf(t, newBuilder(12))
	everything(r)
	index, device := r.files(mounttest.Dir(t))
	out, err := exec.Command("fsck.erofs", "--extract", "--device="+device, index).CombinedOutput()
	if err != nil {
		t.Errorf("fsck.erofs: %v: %s", err, out)
	}
	out, err = exec.Command("dump.erofs", "-s", "--device="+device, index).CombinedOutput()
	if want := fmt.Sprintf("Filesystem inode count:                       %d", len(inodes(r))); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("dump.erofs: %v: %s; not %q", err, out, want)
	}
	r.check(mounttest.Dir(t))
}

func inodes(r *tree) map[Node]bool {
	all := map[Node]bool{}
	for _, n := range r.nodes {
		all[n] = true
	}
	return all
}
