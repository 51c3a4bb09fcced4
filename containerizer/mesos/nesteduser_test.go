//go:build linux

package mesos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/capability"
	"berth/isolator/linux/capabilities"
)

const whoAmI = "id -u; tr -s ' ' </proc/self/uid_map"

// inRange is what whoAmI says in a container of the pool's first range.
func inRange(uid int) string {
	return fmt.Sprintf("%d\n 0 %d %d\n", uid, userPool.Start, userPool.Size/2)
}

// Who looks into a container with a user namespace is in that, too.
func TestDebugInAUserNamespace(t *testing.T) {
	r := newRig(t)
	request := config(baseImage, "sh", "-c", "echo mine >/file; echo up; exec sleep 1000")
	parent := r.start(mapped(request))
	parent.says("up\n")
	if o := parent.runIn("look", debug(whoAmI+"; cat /file; hostname; echo >&2 error; exit 7")); o.code() != 7 || o.stdout != inRange(0)+"mine\n"+parent.id.Value()+"\n" || o.stderr != "error\n" {
		t.Errorf("%d, %v, %q %q", o.code(), o.err, o.stdout, o.stderr)
	}
	asApp := debug(whoAmI)
	asApp.User = proto.String("app")
	if o := parent.runIn("app", asApp); o.stdout != inRange(1000) {
		t.Errorf("%v, %q %q", o.err, o.stdout, o.stderr)
	}
	inside := parent.startIn("inside", debug("sleep 1000"))
	for _, kind := range []string{"user", "mnt", "pid", "ipc", "uts", "net"} {
		if inside.namespaceOf(kind) != parent.namespaceOf(kind) {
			t.Errorf("it is not in the %s namespace of its parent", kind)
		}
	}
	start := strconv.FormatUint(uint64(userPool.Start), 10)
	for _, pid := range []int{inside.initOf(), inside.processOf()} {
		if got := idsOf(t, pid); got != [2]string{start, start} {
			t.Errorf("on the host process %d is of %s", pid, got)
		}
	}
	threads, err := filepath.Glob("/proc/" + strconv.Itoa(inside.initOf()) + "/task/*/root")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, root := range threads {
		if _, err := os.Stat(root + r.dir); err == nil {
			t.Errorf("%s is the host's", root)
		}
	}
	if name, err := os.ReadFile("/proc/" + strconv.Itoa(inside.initOf()) + "/comm"); string(name) != "berth-init\n" {
		t.Errorf("its init process is called %q, %v", name, err)
	}
	outside := debug("true")
	outside.User = proto.String("65536")
	if o := parent.runIn("outside", outside); !errors.Is(o.err, container.ErrInvalid) || !strings.Contains(o.err.Error(), "0 to 65535") {
		t.Errorf("a user that it does not have: %v", o.err)
	}
	if o := parent.runIn("missing", &v1.ContainerConfig{ContainerClass: v1.ContainerClass_DEBUG.Enum(), ImageArguments: []string{"/no"}}); o.err == nil || !strings.Contains(o.err.Error(), "no such file") {
		t.Errorf("no such command: %v", o.err)
	}
}

func TestDebugWithATerminalInAUserNamespace(t *testing.T) {
	r := newRig(t)
	parent := r.start(mapped(config(baseImage, "sleep", "1000")))
	id := r.child(parent.id, "look")
	c := withTerminal(debug("tty; stat -c %u $(tty); exit 3"))
	if err := r.Launch(t.Context(), id, containerizer.Request{Config: c}); err != nil {
		t.Fatal(err)
	}
	if ended, err := r.Wait(t.Context(), id); err != nil || ended.ExitCode() != 3 {
		t.Errorf("it ended with %+v, %v", ended, err)
	}
	out, err := os.ReadFile(filepath.Join(r.Layout.Sandbox(id), "stdout"))
	if want := "/dev/pts/0\r\n0\r\n"; string(out) != want || err != nil {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}

// Capabilities are those of the parent, and in its user namespace alone.
func TestCapabilitiesOfDebugInAUserNamespace(t *testing.T) {
	r := newRigWith(t, "overlay", withCapabilities(t))
	parent := r.start(mapped(asked("echo up; exec sleep 1000", "", nil, &v1.SecurityOptions{DropCapabilities: []string{"NET_RAW"}})))
	parent.says("up\n")
	bound := capabilities.Default &^ capability.Of("NET_RAW")
	o := parent.runIn("look", debug(printSets))
	if want := (sets{0, bound, bound, bound, 0}).String(); strings.TrimSpace(o.stdout) != want {
		t.Errorf("%v: it has %s\nwant %s", o.err, o.stdout, want)
	}
}

// A container that may do in its namespaces whatever it wants does not lead astray who looks
// into it: no program of its own is executed as berth-init, and none of its files changed.
func TestDebugInAUserNamespaceThatLies(t *testing.T) {
	r := newRig(t)
	parent := r.start(mapped(shell(`mount -t tmpfs none /proc; mkdir -p /proc/self/fd; echo precious >/file; ln -s /file /proc/self/comm
for i in 3 4 5 6 7 8 9 10 11 12 13 14; do printf '#!/bin/sh\necho caught\n' >/proc/self/fd/$i; chmod +x /proc/self/fd/$i; done; echo ready; sleep 1000`)))
	parent.says("ready")
	if o := parent.runIn("d", debug("echo hello; cat /file")); o.stdout != "hello\nprecious\n" || o.err != nil {
		t.Errorf("%q %q, %v", o.stdout, o.stderr, o.err)
	}
}

// A container nested in one with a user namespace is in that: its own namespaces belong to
// it, and the owners of its files are those of the range.
func TestNestedInAUserNamespace(t *testing.T) {
	for _, backend := range []string{"overlay", "copy"} {
		t.Run(backend, func(t *testing.T) {
			r := newRigWith(t, backend, nil)
			parent := r.start(mapped(config(baseImage, "sleep", "1000")))
			own := linuxInfo(shell(whoAmI+`; stat -c %u / /tmp; echo x >/new && stat -c %u /new; echo y >"$MESOS_SANDBOX/mine"; stat -c %u "$MESOS_SANDBOX/mine"
hostname inside && hostname; mkdir /m && mount -t tmpfs tmpfs /m && echo mounted; ls /sys/class/net; ps | grep -c "slee[p]"; exit 6`),
				&v1.LinuxInfo{IpcMode: v1.LinuxInfo_PRIVATE.Enum(), ShareCgroups: proto.Bool(false)})
			own.ContainerInfo.Hostname = proto.String("own")
			own.ContainerInfo.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String("none")}}
			if o := parent.runIn("own", own); o.code() != 6 || o.stdout != inRange(0)+"0\n0\n0\n0\ninside\nmounted\nlo\n0\n" {
				t.Errorf("%d, %v\n%s%s", o.code(), o.err, o.stdout, o.stderr)
			}
			shared := linuxInfo(shell(whoAmI+"; ps | grep -c 'slee[p] 1000'; echo up; exec sleep 1001"), &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)})
			child := parent.startIn("shared", shared)
			child.says("up\n")
			if out, stderr := child.output(); out != inRange(0)+"1\nup\n" {
				t.Errorf("%q %s", out, stderr)
			}
			for kind, same := range map[string]bool{"user": true, "pid": true, "ipc": true, "net": true, "mnt": false} {
				if got := child.namespaceOf(kind) == parent.namespaceOf(kind); got != same {
					t.Errorf("it shares the %s namespace of its parent: %v", kind, got)
				}
			}
			if o := child.runIn("look", debug(whoAmI)); o.stdout != inRange(0) {
				t.Errorf("who looks into it: %v, %q %s", o.err, o.stdout, o.stderr)
			}
		})
	}
}

func TestBadRequestsOfNestedContainersWithUserNamespaces(t *testing.T) {
	r := newRig(t)
	parent, plain := r.start(mapped(config(baseImage, "sleep", "1000"))), r.start(config(baseImage, "sleep", "1000"))
	before := r.left()
	for name, c := range map[string]struct {
		in     *box
		config *v1.ContainerConfig
		class  error
		says   string
	}{
		"no image":           {parent, &v1.ContainerConfig{ImageArguments: []string{"true"}}, container.ErrNotSupported, "run an image"},
		"another range":      {parent, mapped(shell("true"), container.IDRange{Start: 3_500_000_000, Size: 65536}), container.ErrInvalid, "3000000000:65536"},
		"in one without":     {plain, mapped(shell("true")), container.ErrInvalid, "which has none"},
		"not to be idmapped": {parent, config("no-such-image", "true"), container.ErrNotFound, ""},
	} {
		if o := c.in.runIn("bad", c.config); !errors.Is(o.err, c.class) || !strings.Contains(o.err.Error(), c.says) {
			t.Errorf("%s: %v", name, o.err)
		}
	}
	for _, path := range r.left() {
		if !slices.Contains(before, path) && filepath.Base(path) != "containers" && !strings.HasSuffix(path, ".nested") {
			t.Errorf("left: %s", path)
		}
	}
	// That of its parent may be asked for.
	if o := parent.runIn("good", mapped(shell(whoAmI))); o.stdout != inRange(0) {
		t.Errorf("%v, %q", o.err, o.stdout)
	}
}
