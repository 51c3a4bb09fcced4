//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/testrig"
)

// BenchmarkPrune removes an image of 16 000 files that nothing uses, and waits until
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
	testrig.DebianImage(b, reg, "debian:1")
	image := reg.Direct() + "/debian:1"
	program := testrig.Berth(b)
	disk := testrig.LoopFS(b, fstype, 8<<10)
	pulled := func(b *testing.B) (dir string, filled filled, clean func()) {
		dir, clean = freshDir(b, disk, "berth")
		filled = fill(b, disk, berth(program, dir, "pull", image))
		return dir, filled, clean
	}
	ctr := startContainerd(b, disk)
	contest{title: "Remove an image of 16 000 files until its space is free, on " + fstype, disk: disk, contenders: []contender{
		{"berth prune", nil, func(b *testing.B) (work, func()) {
			dir, filled, clean := pulled(b)
			return filled.untilFree(programs(berth(program, dir, "prune"))), clean
		}},
		{"ctr images rm --sync", []string{"ctr", "containerd"}, func(b *testing.B) (work, func()) {
			filled := fill(b, disk, ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", image))
			return filled.untilFree(programs(ctr("images", "rm", "--sync", image))), nothing
		}},
		{"rm -rf of the layers of berth", nil, func(b *testing.B) (work, func()) {
			dir, filled, clean := pulled(b)
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

// startContainerd starts a containerd, if there is one, with all that is its own on the
// disk, and returns the command line of its client. It ends with the benchmark.
func startContainerd(b *testing.B, disk string) (ctr func(args ...string) []string) {
	b.Helper()
	dir := filepath.Join(disk, "containerd")
	socket := filepath.Join(dir, "socket")
	ctr = func(args ...string) []string { return append([]string{"ctr", "--address", socket}, args...) }
	if _, err := exec.LookPath("containerd"); err != nil {
		return ctr // it will be said that it does not take part
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, containerdConfig, dir), 0o600); err != nil {
		b.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--config", config)
	daemon.Stdout, daemon.Stderr = log, log
	stop := startTied(b, daemon)
	b.Cleanup(func() {
		stop()
		detach(b, dir)
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := programs(ctr("version"))(); err == nil {
			return ctr
		} else if time.Now().After(end) {
			said, _ := os.ReadFile(log.Name())
			b.Fatalf("containerd does not answer: %v\n%s", err, said)
		}
	}
}

// containerdConfig leaves out what touches the host.
const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart"]
[grpc]
  address = "%[1]s/socket"
`

// startTied starts a daemon that dies with this process, however that ends. The kernel
// ties it to the thread that started it, so that is kept.
func startTied(b *testing.B, daemon *exec.Cmd) (stop func()) {
	b.Helper()
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := daemon.Start()
		started <- err
		if err == nil {
			done <- daemon.Wait()
		}
	}()
	if err := <-started; err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
			b.Logf("end %s: %v", daemon.Path, err)
		}
		<-done
	}
}
