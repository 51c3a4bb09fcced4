//go:build linux

package bench

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/testrig"
)

// BenchmarkPrune removes an image of 17 000 files that nothing uses, and waits until
// statfs(2) shows its space to be free. Everybody's image was synced to the disk before.
// Nobody is made to sync afterwards; what they sync for their own safety counts.
func BenchmarkPrune(b *testing.B) {
	for _, fstype := range []string{"ext4", "xfs"} {
		b.Run(fstype, func(b *testing.B) { prune(b, fstype) })
	}
}

func prune(b *testing.B, fstype string) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.LargeDebianImage(b, reg, "debian:1")
	image := reg.Direct() + "/debian:1"
	program := testrig.Berth(b)
	disk := testrig.LoopFS(b, fstype, 8<<10)
	pulled := func(b *testing.B, backend string) (dir string, filled filled, clean func()) {
		dir, clean = freshDir(b, disk, "berth")
		filled = fill(b, disk, berth(program, dir, "pull", "--image_provisioner_backend="+backend, image))
		return dir, filled, clean
	}
	ctr, docker := startContainerd(b, disk), startDocker(b, disk)
	contest{title: "Remove an image of 17 000 files until its space is free, on " + fstype, disk: disk, contenders: []contender{
		{"berth prune", nil, func(b *testing.B) (work, func()) {
			dir, filled, clean := pulled(b, "erofs")
			return filled.untilFree(programs(berth(program, dir, "prune"))), clean
		}},
		{"berth prune, trees", nil, func(b *testing.B) (work, func()) {
			dir, filled, clean := pulled(b, "overlay")
			return filled.untilFree(programs(berth(program, dir, "prune"))), clean
		}},
		{"ctr images rm --sync", []string{"ctr", "containerd"}, func(b *testing.B) (work, func()) {
			filled := fill(b, disk, ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", image))
			return filled.untilFree(programs(ctr("images", "rm", "--sync", image))), nothing
		}},
		{"docker rmi", []string{"docker", "dockerd"}, func(b *testing.B) (work, func()) {
			filled := fill(b, disk, docker("pull", "--quiet", image))
			return filled.untilFree(programs(docker("rmi", image))), nothing
		}},
		{"rm -rf of the trees", nil, func(b *testing.B) (work, func()) {
			dir, filled, clean := pulled(b, "overlay")
			return filled.untilFree(programs([]string{"rm", "-rf", dir + "/store/layers"})), clean
		}},
	}}.run(b)
}

// filled is a file system to which something was added.
type filled struct {
	disk          string
	before, after uint64 // bytes that are free
}

// fill runs a command that adds something, and makes that durable.
func fill(b *testing.B, disk string, command []string) filled {
	b.Helper()
	f := filled{disk: disk, before: free(b, disk)}
	setUp(b, command)
	f.after = free(b, disk)
	return f
}

// free returns how many bytes are free when nothing is left to be written.
func free(b *testing.B, disk string) uint64 {
	b.Helper()
	if err := syncfs(disk); err != nil {
		b.Fatal(err)
	}
	bytes, err := freeNow(disk)
	if err != nil {
		b.Fatal(err)
	}
	return bytes
}

func freeNow(disk string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: disk, Err: err}
	}
	return st.Bfree * uint64(st.Bsize), nil
}

// untilFree is the work of removing what was added, all but one percent: records and
// databases keep some blocks.
func (f filled) untilFree(remove work) work {
	want := f.before - (f.before-f.after)/100
	return func() (int64, error) {
		maxRSS, err := remove()
		if err != nil {
			return 0, err
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			now, err := freeNow(f.disk)
			if err != nil || now >= want {
				return maxRSS, err
			}
			if time.Now().After(end) {
				return 0, fmt.Errorf("a minute later %d MB are still not free", (want-now)>>20)
			}
		}
	}
}
