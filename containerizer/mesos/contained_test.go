//go:build linux

package mesos

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
)

// host is what a container could have changed of this machine.
type host struct {
	mounts, passwd, null, hostname, pattern string
}

func (r *rig) host() (h host) {
	r.Helper()
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			r.Error(err)
		}
		return string(data)
	}
	var null unix.Stat_t
	if err := unix.Lstat("/dev/null", &null); err != nil {
		r.Error(err)
	}
	return host{r.hostMounts(), read("/etc/passwd"), fmt.Sprintf("%o %x", null.Mode, null.Rdev),
		read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/core_pattern")}
}

// Whatever a container does to its processes, its memory, its mounts and its files, the host
// is afterwards as it was, and nothing is left.
func TestContained(t *testing.T) {
	for name, c := range map[string]struct {
		script  string // says ready once it is done, CANARY being a file of the host
		limits  map[string]float64
		limited container.Reason // how it ends by itself
	}{
		"a fork bomb": {script: "run() { run | run & }; run; echo ready; while :; do :; done", limits: map[string]float64{"pids": 100}},
		"forks as fast as it can": {script: "echo ready; while :; do (exit 0) & (while :; do (exit 0) & done) & done",
			limits: map[string]float64{"pids": 200}},
		"a memory hog":    {script: "echo ready; exec tail /dev/zero", limits: map[string]float64{"mem": 24}, limited: container.ReasonLimitationMemory},
		"ignores signals": {script: "trap '' TERM INT HUP QUIT; echo ready; while :; do sleep 1000; done"},
		"kills everybody": {script: "kill -9 -1; kill -9 1; echo ready; sleep 1000"},
		"unmounts": {script: `for i in 1 2 3; do for at in $(cut -d' ' -f5 /proc/self/mountinfo | sort -r); do umount -l $at 2>/dev/null; done; done
			umount -l /mnt/mesos/sandbox; umount -l /dev/pts; umount -l /proc; umount -l /dev; umount -l /; echo ready; sleep 1000`},
		"remounts": {script: `mount -o remount,rw /proc/sys; mount -o bind,remount,rw /proc/sys; mount -o remount,ro /; mount --make-rshared / ; mount -t tmpfs none /mnt
			mount -t tmpfs none /etc; mount --bind / /srv; mount --rbind / /tmp; mount --move /dev /home; echo ready; sleep 1000`},
		"fills its disk": {script: "yes > /tmp/full; yes > $MESOS_SANDBOX/full; i=0; while mkdir /srv/$i 2>/dev/null; do i=$((i+1)); [ $i -lt 2000 ] || break; done; echo ready; sleep 1000"},
		"chroots": {script: `mkdir -p /jail/bin && cp /bin/busybox /jail/bin/ && chroot /jail /bin/busybox sh -c 'echo broken > ../../../../..CANARY'
			chroot /proc/1/root /bin/busybox sh -c 'echo broken > CANARY'; cd /proc/1/cwd && echo broken > ../../../../..CANARY; echo ready; exec chroot /jail /bin/busybox sleep 1000`},
		"puts links in the place of everything": {script: `rm -f /dev/null /dev/console /etc/passwd /etc/group; ln -s CANARY /dev/null; ln -s CANARY /dev/console
			ln -s CANARY /etc/passwd; ln -s CANARY /etc/group; umount -l /proc && rmdir /proc && ln -s CANARY /proc
			rm -rf $MESOS_SANDBOX/*; ln -s / $MESOS_SANDBOX/stdout; ln -s CANARY $MESOS_SANDBOX/stderr
			for f in /dev/null /dev/console /etc/passwd /proc; do echo broken > $f; done; echo ready; exec sleep 1000`},
		"asks the kernel": {script: `echo x > /proc/sys/kernel/core_pattern; echo x > /proc/sysrq-trigger; hostname inside
			[ -z "$(ls /sys/fs/cgroup)" ] && echo ready; sleep 1000`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if strings.Contains(c.script, "/full") {
				defer r.smallDisk()()
			}
			before := r.host()
			b := r.start(limits(shell(strings.ReplaceAll(c.script, "CANARY", r.canary)), c.limits))
			if c.limited != "" {
				if o := b.wait(); o.termination.Limitation == nil || o.termination.Limitation.Reason != c.limited {
					t.Errorf("it ends with %+v", o.termination)
				}
			} else {
				b.says("ready")
				r.useWhileItLasts(b)
				began := time.Now()
				if existed, err := r.Destroy(t.Context(), b.id); !existed || err != nil {
					t.Errorf("Destroy: %v, %v", existed, err)
				}
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("Destroy took %v", took)
				}
			}
			if after := r.host(); after != before {
				t.Errorf("the host was\n%+v\nand is\n%+v", before, after)
			}
			if left := leftOvers(t, r.Layout); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// smallDisk gives the world a disk of its own, so that it can be filled. What it returns
// takes that away, which the kernel refuses while anything is mounted below or open.
func (r *rig) smallDisk() (remove func()) {
	r.Helper()
	if err := unix.Mount("berth-test", r.world.Work, "tmpfs", 0, "size=24m,mode=700"); err != nil {
		r.Fatal(err)
	}
	r.open(nil)
	return func() {
		if err := unix.Unmount(r.world.Work, 0); err != nil {
			r.Errorf("unmount the disk: %v", err)
		}
		r.assertNothingLeft()
	}
}

// useWhileItLasts does with a container what an operator does. It may fail, but leads
// nowhere.
func (r *rig) useWhileItLasts(b *box) {
	r.Helper()
	if _, err := r.Usage(r.Context(), b.id); err != nil {
		r.Logf("usage: %v", err)
	}
	request := debug("echo broken >/dev/null; echo broken >/etc/passwd")
	if child, err := r.try(r.child(b.id, "look"), request); err == nil {
		child.wait()
	} else {
		r.Logf("a look into it: %v", err)
	}
	if err := r.Kill(r.Context(), b.id, syscall.SIGTERM); err != nil {
		r.Logf("kill: %v", err)
	}
}

// CVE-2021-30465, CVE-2024-45310: while a container is launched, another one that shares
// a volume with it exchanges a directory below a mount point for a link to the host.
func TestALinkThatIsSwappedIntoThePathOfAMountPoint(t *testing.T) {
	r := newRig(t)
	shared, outside := filepath.Join(r.dir, "shared"), filepath.Join(r.dir, "outside")
	for _, dir := range []string{shared + "/a", outside} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../../../../.."+outside, filepath.Join(shared, "trap")); err != nil {
		t.Fatal(err)
	}
	before := tree(t, outside)
	var stop atomic.Bool
	swapped := make(chan int)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			if err := unix.Renameat2(unix.AT_FDCWD, shared+"/a", unix.AT_FDCWD, shared+"/trap", unix.RENAME_EXCHANGE); err != nil {
				break
			}
		}
		swapped <- n
	}()
	launches := 25
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		launches = 10_000
	}
	for n := range launches {
		// The mount point is made in the shared volume, below what is swapped.
		o := r.run(mounting(shell("ls -d "+outside+"/* 2>/dev/null"), hostVolume(shared, "/shared", "rw"),
			imageVolume(baseImage, "/shared/a/in"+strconv.Itoa(n%3)+"/deep", "rw")))
		if o.stdout != "" {
			t.Errorf("the container sees %q", o.stdout)
		}
	}
	stop.Store(true)
	if n := <-swapped; n < launches {
		t.Errorf("it was swapped only %d times", n)
	}
	if after := tree(t, outside); after != before {
		t.Errorf("the host's directory was\n%s\nand is\n%s", before, after)
	}
}

// CVE-2020-15257: in the host's network namespace a container reaches abstract sockets,
// whoever may not reach files. berth and berth-init have none.
func TestNoAbstractSocketIsWithinReach(t *testing.T) {
	r := newRig(t)
	c := r.start(config(baseImage, "sleep", "1000"))
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{os.Getpid(), c.initOf()} {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, fd := range files {
			target, _ := os.Readlink(fd) // that of the directory is closed already
			inode, ok := strings.CutPrefix(target, "socket:[")
			if !ok {
				continue
			}
			inode = strings.TrimSuffix(inode, "]")
			for line := range strings.Lines(string(sockets)) {
				if fields := strings.Fields(line); len(fields) > 7 && fields[6] == inode && strings.HasPrefix(fields[7], "@") {
					t.Errorf("%s is the abstract socket %s", fd, fields[7])
				}
			}
		}
	}
}

// CVE-2024-40635: a user whose number overflows is root.
func TestUsersWhoseNumbersOverflow(t *testing.T) {
	r := newRig(t)
	for _, user := range []string{"4294967295", "2147483648", "4294967296", "-1", "0x0", "00000000000000000000", "18446744073709551616", "1000:4294967296", "+0"} {
		for name, request := range map[string]*v1.ContainerConfig{"of the request": shell("id -u"), "of the image": config(r.image(imageWith(user, "")), "id", "-u")} {
			if name == "of the request" {
				request.User = &user
			}
			if o := r.run(request); o.err == nil && strings.TrimLeft(user, "0") != "" {
				t.Errorf("user %s %s is %q", user, name, o.stdout)
			}
		}
	}
}

// CVE-2022-23648: the path of a volume that an image declares leads to a file of the host.
// berth makes nothing of such a declaration.
func TestVolumesThatAnImageDeclaresAreNoMounts(t *testing.T) {
	r := newRig(t)
	script := []string{"sh", "-c", "cut -d' ' -f5 /proc/self/mountinfo; cat " + r.canary + " /link 2>/dev/null"}
	want := r.run(config(baseImage, script...)).stdout
	img := r.image(image.RunConfig{Volumes: []string{"/../../.." + r.canary, "/link", "/proc", "/etc"}}, pack(link("link", "../../../../.."+r.canary)))
	if got := r.run(config(img, script...)).stdout; got != want || got == "" {
		t.Errorf("%q, without declarations %q", got, want)
	}
}

// CVE-2021-41103, CVE-2024-25621: whoever has an account on the host goes into the
// directories of containers.
func TestNobodyElseGetsToTheFilesOfContainers(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	r := newRig(t)
	r.start(config(baseImage, "sleep", "1000"))
	for _, dir := range []string{r.Layout.Work, r.Layout.Runtime} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
}
