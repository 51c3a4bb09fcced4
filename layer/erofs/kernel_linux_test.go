package erofs

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
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
