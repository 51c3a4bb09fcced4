//go:build linux

package mesos

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/image"
	"berth/internal/cgroup"
	"berth/internal/mount"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
	linux "berth/launcher/linux"
)

// rig is a world of one test, and a containerizer of it.
type rig struct {
	testing.TB
	*Containerizer
	launcher *linux.Launcher
	world    world
	store    fileStore
	dir      string
	// canary is a file of the host that no container may reach.
	canary string
	opened []*Containerizer
}

var ids atomic.Int64

// newRig returns a world on the overlay backend. At the end of the test nothing of it
// may be left; what is, is removed, and fails the test.
func newRig(t testing.TB) *rig { return newRigWith(t, "overlay", nil) }

func newRigWith(t testing.TB, backend string, change func(*parts)) *rig {
	t.Helper()
	needKernel(t)
	bin, err := testrig.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	store, err := sharedStore()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(testDir, "rig-")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{TB: t, store: store, dir: dir, canary: filepath.Join(dir, "canary"), world: world{
		Work: filepath.Join(dir, "work"), Runtime: filepath.Join(dir, "run"), Store: store.dir, Init: bin,
		CgroupsRoot: testRoot + "/" + strings.ToLower(rand.Text()[:8]), Backend: backend}}
	if err := os.WriteFile(r.canary, []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close) // after tearDown
	r.open(change)
	t.Cleanup(r.tearDown)
	return r
}

// open opens the world again, as another process would.
func (r *rig) open(change func(*parts)) {
	r.Helper()
	var err error
	if r.Containerizer, r.launcher, err = r.world.open(change); err != nil {
		r.Fatal(err)
	}
	r.opened = append(r.opened, r.Containerizer)
}

// close closes what was opened, as the end of each process would.
func (r *rig) close() {
	r.Helper()
	for _, c := range r.opened {
		if err := c.Provisioner.Layers.Close(); err != nil {
			r.Error(err)
		}
	}
}

// left lists what there is of containers, as after the end of the process.
func (r *rig) left() []string {
	r.Helper()
	r.launcher.Close()
	return append(leftOvers(r, r.Layout), ofContainers(r.dir, r.world.CgroupsRoot)...)
}

// assertNothingLeft gives the kernel some time: the mounts of a namespace go after its
// last process.
func (r *rig) assertNothingLeft() {
	r.Helper()
	var left []string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if left = r.left(); len(left) == 0 {
			break
		}
	}
	if len(left) > 0 {
		r.Errorf("left: %d things, as\n%s", len(left), strings.Join(left[:min(10, len(left))], "\n"))
	}
	if data, err := os.ReadFile(r.canary); err != nil || string(data) != "canary" {
		r.Errorf("the canary on the host is %q, %v", data, err)
	}
}

func (r *rig) tearDown() {
	r.assertNothingLeft()
	host, err := cgroup.Detect()
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	group, err := host.Group(r.world.CgroupsRoot, []string{"cpu", "memory", "pids", "devices"})
	if err != nil {
		r.Fatal(err)
	}
	if err := group.Kill(ctx); err != nil {
		r.Error(err)
	}
	if err := group.Remove(ctx); err != nil {
		r.Error(err)
	}
	if err := mounttest.DetachBelow(r.dir); err != nil {
		r.Error(err)
	}
	if _, err := mount.RemoveAll(r.dir); err != nil {
		r.Error(err)
	}
}

// image makes an image of the base and one more layer, and returns its name.
func (r *rig) image(run image.RunConfig, entries ...[]byte) string {
	r.Helper()
	base, err := r.store.config(baseImage)
	if err != nil {
		r.Fatal(err)
	}
	name := strings.ToLower(rand.Text())
	if err := r.store.put(context.Background(), name, run, base.DiffIDs, entries...); err != nil {
		r.Fatal(err)
	}
	return name
}

// config asks for a command in an image.
func config(img string, args ...string) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: imageInfo(img), ImageArguments: args}
}

// shell asks for a script in the base image.
func shell(script string) *v1.ContainerConfig { return config(baseImage, "sh", "-c", script) }

func limits(c *v1.ContainerConfig, limits map[string]float64) *v1.ContainerConfig {
	c.Limits = map[string]*v1.Value_Scalar{}
	for name, limit := range limits {
		c.Limits[name] = &v1.Value_Scalar{Value: proto.Float64(limit)}
	}
	return c
}

// outcome is how a container ended, or why it was not started.
type outcome struct {
	stdout, stderr string
	termination    container.Termination
	err            error
}

// code is the exit code of a command-line tool, -1 for a container that was not started.
func (o outcome) code() int {
	if o.err != nil {
		return -1
	}
	return o.termination.ExitCode()
}

// box is a container that was launched.
type box struct {
	*rig
	id     container.ID
	stdin  io.WriteCloser
	copies sync.WaitGroup
	mu     sync.Mutex
	out    [2]bytes.Buffer
}

type lockedWriter struct {
	*box
	to *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

func (c *box) output() (stdout, stderr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out[0].String(), c.out[1].String()
}

// newID returns an id that no other container of this run has.
func (r *rig) newID() container.ID { return mustID(r, "c"+strconv.FormatInt(ids.Add(1), 10)) }

// try launches a container, which may fail.
func (r *rig) try(id container.ID, config *v1.ContainerConfig) (*box, error) {
	r.Helper()
	c := &box{rig: r, id: id}
	var stdio, ours [3]*os.File
	for i := range stdio {
		read, write, err := os.Pipe()
		if err != nil {
			r.Fatal(err)
		}
		stdio[i], ours[i] = write, read
		if i == 0 {
			stdio[i], ours[i] = read, write
		}
	}
	c.stdin = ours[0]
	for i := range c.out {
		c.copies.Go(func() {
			io.Copy(lockedWriter{c, &c.out[i]}, ours[i+1])
			ours[i+1].Close()
		})
	}
	err := r.Launch(r.Context(), id, containerizer.Request{Config: config, Stdio: stdio, Keeper: containerizer.Foreground})
	for _, f := range stdio {
		f.Close()
	}
	if err != nil {
		c.stdin.Close()
		c.copies.Wait()
	}
	return c, err
}

// start launches a container, and destroys it at the end of the test.
func (r *rig) start(config *v1.ContainerConfig) *box {
	r.Helper()
	c, err := r.try(r.newID(), config)
	if err != nil {
		_, stderr := c.output()
		r.Fatalf("launch: %v\n%s", err, stderr)
	}
	r.Cleanup(func() {
		if _, err := r.Destroy(context.Background(), c.id); err != nil {
			r.Error(err)
		}
		c.stdin.Close()
		c.copies.Wait()
	})
	return c
}

// wait waits for the end of the container.
func (c *box) wait() outcome {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	termination, err := c.Wait(ctx, c.id)
	if err != nil {
		c.Errorf("wait for %s: %v", c.id, err)
	}
	c.stdin.Close()
	c.copies.Wait()
	stdout, stderr := c.output()
	return outcome{stdout, stderr, termination, nil}
}

// says waits until the container has written a text to its standard output.
func (c *box) says(text string) {
	c.Helper()
	soon(c, fmt.Sprintf("the output %q", text), func() bool {
		stdout, _ := c.output()
		return strings.Contains(stdout, text)
	})
}

// run runs a container to its end.
func (r *rig) run(config *v1.ContainerConfig) outcome {
	r.Helper()
	c, err := r.try(r.newID(), config)
	if err != nil {
		stdout, stderr := c.output()
		return outcome{stdout, stderr, container.Termination{}, err}
	}
	return c.wait()
}

// output returns what a container prints, which is to succeed.
func (r *rig) output(config *v1.ContainerConfig) string {
	r.Helper()
	o := r.run(config)
	if o.err != nil || o.code() != 0 {
		r.Fatalf("the container ends with %d, %v\n%s%s", o.code(), o.err, o.stdout, o.stderr)
	}
	return o.stdout
}

// sh returns what a script in the base image prints.
func (r *rig) sh(script string) string {
	r.Helper()
	return r.output(shell(script))
}

// expect runs a script and compares what it prints.
func (r *rig) expect(script, want string) {
	r.Helper()
	if got := strings.TrimSpace(r.sh(script)); got != want {
		r.Errorf("%s\nprints %q\nwant   %q", script, got, want)
	}
}

// initOf returns the init process of a running container, and processOf the process of
// its command, by their ids on the host.
func (c *box) initOf() int {
	c.Helper()
	data, err := os.ReadFile(c.Layout.Container(c.id).Pid())
	if err != nil {
		c.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		c.Fatal(err)
	}
	return pid
}

func (c *box) processOf() int {
	c.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.initOf()))
	if err != nil {
		c.Fatal(err)
	}
	// The thread that forked need not be the first one.
	if strings.TrimSpace(string(data)) == "" {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.initOf()))
		for _, task := range tasks {
			more, _ := os.ReadFile(task)
			data = append(data, more...)
		}
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		c.Fatalf("children of the init process: %q: %v", data, err)
	}
	return pid
}

func imageWith(user, dir string, env ...string) image.RunConfig {
	return image.RunConfig{User: user, WorkingDir: dir, Env: env}
}
