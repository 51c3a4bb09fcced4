//go:build linux

package mesos

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

func (r *rig) child(parent container.ID, value string) container.ID {
	r.Helper()
	id, err := parent.Child(value)
	if err != nil {
		r.Fatal(err)
	}
	return id
}

// startIn launches a container nested in another one.
func (c *box) startIn(value string, config *v1.ContainerConfig) *box {
	c.Helper()
	nested, err := c.try(c.child(c.id, value), config)
	if err != nil {
		_, stderr := nested.output()
		c.Fatalf("launch %s in %s: %v\n%s", value, c.id, err, stderr)
	}
	c.Cleanup(func() {
		if _, err := c.Destroy(context.Background(), nested.id); err != nil {
			c.Error(err)
		}
		nested.stdin.Close()
		nested.copies.Wait()
	})
	return nested
}

// runIn runs a container nested in another one to its end.
func (c *box) runIn(value string, config *v1.ContainerConfig) outcome {
	c.Helper()
	nested, err := c.try(c.child(c.id, value), config)
	if err != nil {
		stdout, stderr := nested.output()
		return outcome{stdout, stderr, container.Termination{}, err}
	}
	return nested.wait()
}

func linuxInfo(c *v1.ContainerConfig, linux *v1.LinuxInfo) *v1.ContainerConfig {
	if c.ContainerInfo == nil {
		c.ContainerInfo = &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum()}
	}
	c.ContainerInfo.LinuxInfo = linux
	return c
}

func debug(script string) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerClass: v1.ContainerClass_DEBUG.Enum(), ImageArguments: []string{"sh", "-c", script}}
}

// namespaceOf reads which namespace the command of a container is in.
func (c *box) namespaceOf(kind string) string {
	c.Helper()
	name, err := os.Readlink("/proc/" + strconv.Itoa(c.processOf()) + "/ns/" + kind)
	if err != nil {
		c.Fatal(err)
	}
	return name
}

func TestNamespacesOfNestedContainers(t *testing.T) {
	r := newRig(t)
	parent := r.start(config(baseImage, "sleep", "1000"))
	plain := parent.startIn("plain", config(baseImage, "sleep", "1000"))
	own := parent.startIn("own", func() *v1.ContainerConfig {
		c := linuxInfo(config(baseImage, "sleep", "1000"), &v1.LinuxInfo{IpcMode: v1.LinuxInfo_PRIVATE.Enum(), ShareCgroups: proto.Bool(false)})
		c.ContainerInfo.Hostname = proto.String("own")
		c.ContainerInfo.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String("none")}}
		return c
	}())
	shared := parent.startIn("shared", linuxInfo(config(baseImage, "sleep", "1000"), &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}))
	for _, c := range []struct {
		of     *box
		shares string // of the parent
	}{{plain, "ipc uts net"}, {own, ""}, {shared, "ipc uts net pid"}} {
		for _, kind := range []string{"mnt", "pid", "ipc", "uts", "net"} {
			if want, got := slices.Contains(strings.Fields(c.shares), kind), c.of.namespaceOf(kind) == parent.namespaceOf(kind); got != want {
				t.Errorf("%s shares the %s namespace of its parent: %v", c.of.id, kind, got)
			}
		}
	}
	// A container sees its own processes, and those with which it shares.
	for b, want := range map[*box]int{parent: 2, plain: 1, own: 1, shared: 2} {
		if o := b.runIn("look", debug("ps")); strings.Count(o.stdout, "sleep 1000") != want {
			t.Errorf("%s sees\n%s%s %v", b.id, o.stdout, o.stderr, o.err)
		}
	}
}

// What is written to /dev/shm is there for whoever shares it, to any depth, and for nobody else.
func TestSharedMemoryOfNestedContainers(t *testing.T) {
	sized := func(c *v1.ContainerConfig) *v1.ContainerConfig {
		return linuxInfo(c, &v1.LinuxInfo{ShmSize: proto.Uint32(5)})
	}
	// The size in pages, and who has written there.
	const look = "stat -f -c %b /dev/shm; cat /dev/shm/names 2>/dev/null; echo $0 >>/dev/shm/names"
	for name, parent := range map[string]*v1.ContainerConfig{
		"an image":                     sized(config(baseImage, "sleep", "1000")),
		"an image in a user namespace": mapped(sized(config(baseImage, "sleep", "1000"))),
		"the host's file system":       sized(onHost("exec sleep 1000")),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRigWith(t, "copy", nil) // any kernel can map its root filesystems
			parent := r.start(parent)
			in := func(mode *v1.LinuxInfo_IpcMode, size *uint32, name, then string) *v1.ContainerConfig {
				return linuxInfo(config(baseImage, "sh", "-c", look+then, name), &v1.LinuxInfo{IpcMode: mode, ShmSize: size})
			}
			share, private := v1.LinuxInfo_SHARE_PARENT.Enum(), v1.LinuxInfo_PRIVATE.Enum()
			child := parent.startIn("child", in(share, nil, "child", "; echo up; exec sleep 1000"))
			child.says("1280\nup\n")
			for n, c := range []struct {
				around *box
				config *v1.ContainerConfig
				want   string
			}{
				{child, in(share, nil, "grandchild", ""), "1280\nchild\n"},
				{child, in(private, proto.Uint32(7), "private", ""), "1792\n"},
				{parent, debug("cat /dev/shm/names"), "child\ngrandchild\n"},
				{parent, onHost("cat /dev/shm/names"), "child\ngrandchild\n"},
				{child, onHost("cat /dev/shm/names"), "child\ngrandchild\n"},
				{parent, linuxInfo(shell("ls /dev/shm; touch /dev/shm/mine"), &v1.LinuxInfo{}), ""},
				{parent, in(share, nil, "again", ""), "1280\nchild\ngrandchild\n"},
			} {
				if name == "an image in a user namespace" && c.config.GetContainerInfo().GetMesos().GetImage() == nil && c.config.ContainerClass == nil {
					continue // it would not be in a user namespace
				}
				if o := c.around.runIn("other"+strconv.Itoa(n), c.config); o.stdout != c.want || o.code() != 0 {
					t.Errorf("in %s: %d %v %q %s, want %q", c.around.id, o.code(), o.err, o.stdout, o.stderr, c.want)
				}
			}
			if left := parent.runIn("sizes", in(share, proto.Uint32(3), "bad", "")); !errors.Is(left.err, container.ErrInvalid) {
				t.Errorf("a size of what is the parent's: %v", left.err)
			}
		})
	}
	for _, file := range []string{"names", "mine"} {
		if _, err := os.Lstat(filepath.Join("/dev/shm", file)); err == nil {
			t.Errorf("%s is on the host", file)
		}
	}
}

func TestCgroupsOfNestedContainers(t *testing.T) {
	r := newRig(t)
	parent := r.start(limits(config(baseImage, "sleep", "1000"), map[string]float64{"mem": 64}))
	sharing := parent.startIn("sharing", config(baseImage, "sleep", "1000"))
	below := sharing.startIn("below", config(baseImage, "sleep", "1000"))
	own := parent.startIn("own", limits(linuxInfo(config(baseImage, "sleep", "1000"), &v1.LinuxInfo{ShareCgroups: proto.Bool(false)}), map[string]float64{"mem": 32}))
	got, apart := parent.cgroupProcesses("memory"), own.cgroupProcesses("memory")
	got = slices.DeleteFunc(got, func(pid string) bool { return slices.Contains(apart, pid) })
	if len(got) != 6 || len(apart) != 2 {
		t.Errorf("in the memory cgroup of the parent are %q, want three containers of two processes; in that below it %q", got, apart)
	}
	if got := own.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"); got != "33554432" {
		t.Errorf("the limit of its own is %s", got)
	}
	for _, b := range []*box{sharing, below, own} {
		group, err := r.launcher.Group(b.id)
		if err != nil {
			t.Fatal(err)
		}
		if pids, err := group.Processes(); err != nil || !slices.Contains(pids, b.processOf()) {
			t.Errorf("in the cgroup of %s are %v, %v", b.id, pids, err)
		}
	}
	// A limit where it would not be enforced is refused.
	if o := parent.runIn("bad", limits(shell("true"), map[string]float64{"mem": 32})); !errors.Is(o.err, container.ErrInvalid) {
		t.Errorf("a limit of a container in the cgroups of its parent: %v", o.err)
	}
	// What a child uses counts for its own limit, else for its parent's.
	if o := parent.runIn("hog", limits(linuxInfo(shell("exec tail /dev/zero"), &v1.LinuxInfo{ShareCgroups: proto.Bool(false)}), map[string]float64{"mem": 24})); o.termination.Limitation == nil {
		t.Errorf("beyond its own limit: %+v, %v", o.termination, o.err)
	}
	parent.startIn("hog2", shell("exec tail /dev/zero"))
	if o := parent.wait(); o.termination.Limitation == nil || o.termination.Limitation.Resource != "mem" {
		t.Errorf("beyond the limit of the parent: %+v", o.termination)
	}
}

// A root that ends takes those nested in it along, however deep, and tells how they ended.
func TestChildrenEndBeforeTheirParent(t *testing.T) {
	for name, end := range map[string]func(c *box) error{
		"Destroy":     func(c *box) error { _, err := c.Destroy(context.Background(), c.id); return err },
		"Kill":        func(c *box) error { return c.Kill(context.Background(), c.id, syscall.SIGKILL) },
		"its command": func(c *box) error { return c.stdin.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			root := r.start(shell("read x; exit 3"))
			first := root.startIn("first", shell("sleep 1000"))
			second := first.startIn("second", shell("sleep 1000"))
			third := second.startIn("third", linuxInfo(shell("trap '' TERM; sleep 1000"), &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}))
			early := root.startIn("early", shell("exit 6"))
			if o := early.wait(); o.code() != 6 {
				t.Errorf("the early one ended with %d", o.code())
			}
			if err := end(root); err != nil {
				t.Error(err)
			}
			for range 2 {
				for _, c := range []*box{third, second, first} {
					if got, err := r.Wait(t.Context(), c.id); err != nil || got.Status == nil || *got.Status != 9 {
						t.Errorf("%s ended with %+v, %v", c.id, got, err)
					}
				}
				if got, err := r.Wait(t.Context(), early.id); err != nil || got.ExitCode() != 6 {
					t.Errorf("%s ended with %+v, %v", early.id, got, err)
				}
			}
			root.wait()
			if _, err := r.Wait(t.Context(), first.id); !errors.Is(err, container.ErrNotFound) {
				t.Errorf("after the root is gone: %v", err)
			}
			r.assertNothingLeft()
		})
	}
}

func TestANestedContainerEndsAlone(t *testing.T) {
	r := newRig(t)
	root := r.start(shell("sleep 1000"))
	for range 2 {
		// Its id is free again after Remove.
		child := root.startIn("child", shell("exit 4"))
		if o := child.wait(); o.code() != 4 {
			t.Errorf("%d", o.code())
		}
		if _, err := r.try(child.id, shell("true")); !errors.Is(err, container.ErrExists) {
			t.Errorf("before Remove: %v", err)
		}
		for range 2 {
			if err := r.Remove(t.Context(), child.id); err != nil {
				t.Error(err)
			}
		}
		if _, err := r.Wait(t.Context(), child.id); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("after Remove: %v", err)
		}
	}
	if err := r.Remove(t.Context(), root.id); !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("Remove of a running container: %v", err)
	}
	if status, err := r.Status(t.Context(), root.id); err != nil || status.State != container.Running || status.Pid != root.initOf() {
		t.Errorf("the root: %+v, %v", status, err)
	}
}

func TestDebug(t *testing.T) {
	r := newRig(t)
	img := r.image(imageWith("app", "/srv", "FROM_IMAGE=1"))
	request := config(img, "sh", "-c", "echo mine > /tmp/file; sleep 1000")
	parent := r.start(request)
	for script, want := range map[string]string{
		"id -u; pwd; echo $FROM_IMAGE":                         "1000\n/srv\n1\n",
		"until cat /tmp/file 2>/dev/null; do sleep 0.01; done": "mine\n",
		"hostname": parent.id.Value() + "\n",
	} {
		if o := parent.runIn("d", debug(script)); o.stdout != want || o.err != nil {
			t.Errorf("%s\nprints %q, %q, %v, want %q", script, o.stdout, o.stderr, o.err, want)
		}
		if err := r.Remove(t.Context(), r.child(parent.id, "d")); err != nil {
			t.Error(err)
		}
	}
	inside := parent.startIn("inside", debug("sleep 1000"))
	for _, kind := range []string{"mnt", "pid", "ipc", "uts", "net"} {
		if inside.namespaceOf(kind) != parent.namespaceOf(kind) {
			t.Errorf("it is not in the %s namespace of its parent", kind)
		}
	}
	// Nothing of the host is to be found through its init process, by any thread.
	threads, err := filepath.Glob("/proc/" + strconv.Itoa(inside.initOf()) + "/task/*/root")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, root := range threads {
		if _, err := os.Stat(root + r.dir); err == nil {
			t.Errorf("%s is the host's", root)
		}
	}
	for name, bad := range map[string]*v1.ContainerConfig{
		"with an image": func() *v1.ContainerConfig { c := debug("true"); c.ContainerInfo = imageInfo(baseImage); return c }(),
		"with limits":   limits(debug("true"), map[string]float64{"cpus": 1}),
	} {
		if o := parent.runIn("bad", bad); !errors.Is(o.err, container.ErrInvalid) {
			t.Errorf("%s: %v", name, o.err)
		}
	}
	if o := inside.runIn("bad", debug("true")); !errors.Is(o.err, container.ErrInvalid) {
		t.Errorf("in a container for debugging: %v", o.err)
	}
	if _, err := r.try(r.newID(), debug("true")); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("of no parent: %v", err)
	}
}

// A program that the container has put in the place of its own must not be executed as
// berth-init, nor that be changed.
func TestDebugInAContainerThatLies(t *testing.T) {
	r := newRig(t)
	parent := r.start(shell("mount -t tmpfs none /proc; mkdir -p /proc/self/fd; for i in 3 4 5 6 7 8 9 10; do printf '#!/bin/sh\\necho caught\\n' > /proc/self/fd/$i; chmod +x /proc/self/fd/$i; done; echo ready; sleep 1000"))
	parent.says("ready")
	if o := parent.runIn("d", debug("echo hello")); o.stdout != "hello\n" || o.err != nil {
		t.Errorf("%q %q, %v", o.stdout, o.stderr, o.err)
	}
}

func TestAParentThatCannotHaveChildren(t *testing.T) {
	r := newRig(t)
	parent := r.start(shell("exit 0"))
	nobody := r.child(r.newID(), "x")
	if _, err := r.try(nobody, shell("true")); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("without a parent: %v", err)
	}
	parent.wait()
	if _, err := r.try(r.child(parent.id, "x"), shell("true")); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("in one that has ended: %v", err)
	}
	r.assertNothingLeft()
}

// Children come and go while their parent is destroyed.
func TestDestroyWhileChildrenAreLaunched(t *testing.T) {
	r := newRig(t)
	for range 3 {
		parent := r.start(shell("sleep 1000"))
		some, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for n := 0; ; n++ {
				if _, err := r.try(r.child(parent.id, "c"+strconv.Itoa(n)), config(baseImage, "sleep", "1000")); err != nil {
					return
				}
				if n == 2 {
					close(some)
				}
			}
		}()
		<-some
		if _, err := r.Destroy(t.Context(), parent.id); err != nil {
			t.Error(err)
		}
		<-ended
		r.assertNothingLeft()
	}
}

func TestAFailureAtAnyPointOfANestedLaunchLeavesNothingOfIt(t *testing.T) {
	for _, point := range points[:len(points)-1] {
		t.Run(point, func(t *testing.T) {
			cause := errors.New("the cause")
			armed := false
			r := newRigWith(t, "overlay", interfere(point, func(context.Context) error {
				if armed {
					return cause
				}
				return nil
			}).into)
			parent := r.start(shell("read x"))
			before := r.left()
			armed = true
			if o := parent.runIn("child", shell("sleep 1000")); !errors.Is(o.err, cause) {
				t.Errorf("error %v", o.err)
			}
			armed = false
			for _, path := range r.left() {
				// The directory that holds children is its parent's.
				if !slices.Contains(before, path) && filepath.Base(path) != "containers" && !strings.HasSuffix(path, ".nested") {
					t.Errorf("left: %s", path)
				}
			}
			parent.stdin.Close()
			parent.wait()
			r.assertNothingLeft()
		})
	}
}

// What forks as fast as it can in the cgroups of its parent, and in its PID namespace, ends
// without the parent.
func TestDestroyOutrunsANestedForkBomb(t *testing.T) {
	r := newRig(t)
	parent := r.start(limits(shell("echo lives; read x; exit 5"), map[string]float64{"pids": 200}))
	parent.says("lives")
	bomb := parent.startIn("bomb", linuxInfo(shell("run() { run & }; for n in 1 2 3 4; do run; done; echo ready; while :; do :; done"),
		&v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}))
	bomb.says("ready")
	if existed, err := r.Destroy(t.Context(), bomb.id); !existed || err != nil {
		t.Errorf("Destroy: %v, %v", existed, err)
	}
	if got := parent.cgroupProcesses("pids"); len(got) != 2 {
		t.Errorf("in the cgroup of the parent are %q, want its own two processes", got)
	}
	parent.stdin.Close()
	if o := parent.wait(); o.code() != 5 {
		t.Errorf("the parent ended with %d", o.code())
	}
}
