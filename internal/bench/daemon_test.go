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
)

// startContainerd starts a containerd, if there is one, with all that is its own on the
// disk, and returns the command line of its client. It ends with the benchmark.
func startContainerd(b *testing.B, disk string) (ctr func(args ...string) []string) {
	b.Helper()
	dir := filepath.Join(disk, "containerd")
	config := filepath.Join(dir, "config.toml")
	ctr = func(args ...string) []string { return append([]string{"ctr", "--address", dir + "/socket"}, args...) }
	startDaemon(b, dir, func() error { return os.WriteFile(config, fmt.Appendf(nil, containerdConfig, dir), 0o600) },
		[]string{"containerd", "--config", config}, ctr("version"))
	return ctr
}

// containerdConfig leaves out what touches the host.
const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart"]
[grpc]
  address = "%[1]s/socket"
`

// startDocker does the same with a dockerd, and the containerd that it starts. It has no
// bridge and makes no rules of iptables.
func startDocker(b *testing.B, disk string) (docker func(args ...string) []string) {
	b.Helper()
	dir := filepath.Join(disk, "docker")
	socket := "unix://" + dir + "/socket"
	docker = func(args ...string) []string { return append([]string{"docker", "--host", socket}, args...) }
	startDaemon(b, dir, func() error { return nil },
		[]string{"dockerd", "--host", socket, "--data-root", dir + "/root", "--exec-root", dir + "/exec", "--pidfile", dir + "/pid",
			"--storage-driver", "overlay2", "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false",
			"--exec-opt", "native.cgroupdriver=cgroupfs"}, docker("version"))
	return docker
}

// startDaemon starts a daemon, if it is installed, and waits until it answers. configure is
// called once its directory is there.
func startDaemon(b *testing.B, dir string, configure func() error, daemon, question []string) {
	b.Helper()
	if _, err := exec.LookPath(daemon[0]); err != nil {
		return // it will be said that it does not take part
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := configure(); err != nil {
		b.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(daemon[0], daemon[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	stop := startTied(b, cmd)
	b.Cleanup(func() {
		stop()
		detach(b, dir)
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := programs(question)(); err == nil {
			return
		} else if time.Now().After(end) {
			said, _ := os.ReadFile(log.Name())
			b.Fatalf("%s does not answer: %v\n%s", daemon[0], err, said)
		}
	}
}

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
