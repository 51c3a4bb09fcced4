//go:build linux

package mesos

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
)

// openDevices tries what a container may do with nodes that it makes itself.
const openDevices = `cd /dev
try() { if (eval "$2") 2>/dev/null; then echo "$1 yes"; else echo "$1 no"; fi; }
try mknod 'mknod new c 1 11'
try kmsg ': < new'
mknod loop b 7 0; try loop ': < loop'
try null ': > null'
try urandom 'head -c 1 urandom >/dev/null'`

func TestAContainerOpensNoDevicesOfTheHost(t *testing.T) {
	r := newRig(t)
	const want = "mknod yes\nkmsg no\nloop no\nnull yes\nurandom yes\n"
	if o := r.run(shell(openDevices)); o.code() != 0 || o.stdout != want {
		t.Errorf("%d, %v\n%s%s", o.code(), o.err, o.stdout, o.stderr)
	}
	// Without an image it sees the host's nodes.
	if o := r.run(&v1.ContainerConfig{ImageArguments: []string{"sh", "-c", ": < /dev/kmsg"}}); o.code() == 0 {
		t.Error("a container on the host's file system opens /dev/kmsg")
	}
	parent := r.start(config(baseImage, "sleep", "1000"))
	own := linuxInfo(shell(openDevices), &v1.LinuxInfo{ShareCgroups: proto.Bool(false)})
	for name, nested := range map[string]*v1.ContainerConfig{"sharing": shell(openDevices), "own": own, "debug": debug(openDevices)} {
		if o := parent.runIn(name, nested); o.code() != 0 || o.stdout != want {
			t.Errorf("nested, %s: %d, %v\n%s%s", name, o.code(), o.err, o.stdout, o.stderr)
		}
	}
}

func TestADeviceOfTheRequest(t *testing.T) {
	r := newRig(t)
	with := func(read bool, script string) *v1.ContainerConfig {
		c := shell(script)
		c.ContainerInfo.Cgroups = &v1.CgroupSettings{Devices: []*v1.DeviceAccess{{
			Device: &v1.Device{Path: proto.String("/dev/kmsg")}, Access: &v1.DeviceAccess_Access{Read: proto.Bool(read), Mknod: proto.Bool(true)}}}}
		return c
	}
	o := r.run(with(true, "ls -l /dev/kmsg | cut -c 1-10; : < /dev/kmsg && echo read; (: > /dev/kmsg) 2>/dev/null || echo not written"))
	if want := "crw-r--r--\nread\nnot written\n"; o.stdout != want {
		t.Errorf("%d, %v: %q %s", o.code(), o.err, o.stdout, o.stderr)
	}
	if o := r.run(with(false, "(: < /dev/kmsg) 2>/dev/null || echo not read")); o.stdout != "not read\n" {
		t.Errorf("%d, %v: %q %s", o.code(), o.err, o.stdout, strings.TrimSpace(o.stderr))
	}
}
