package ipc

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
	"berth/launcher/plan"
)

func config(rootfs string, linux *v1.LinuxInfo) *v1.ContainerConfig {
	c := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{LinuxInfo: linux}}
	if rootfs != "" {
		c.Rootfs = proto.String(rootfs)
	}
	return c
}

var (
	shared      = &v1.LinuxInfo{IpcMode: v1.LinuxInfo_SHARE_PARENT.Enum()}
	private     = &v1.LinuxInfo{IpcMode: v1.LinuxInfo_PRIVATE.Enum()}
	sized       = &v1.LinuxInfo{ShmSize: proto.Uint32(64)}
	sharedSized = &v1.LinuxInfo{IpcMode: v1.LinuxInfo_SHARE_PARENT.Enum(), ShmSize: proto.Uint32(64)}
)

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(Options{Alone: true}), isolatortest.Requests{
		Good: config("/rootfs", sized),
		Bad: map[string]*v1.ContainerConfig{"a size for the host's": config("/rootfs", sharedSized), "on the host": config("", sharedSized),
			"the host's, where that is not allowed": config("/rootfs", shared)},
	})
}

func TestPrepare(t *testing.T) {
	const quiet = plan.NoSuid | plan.NoDev | plan.NoExec
	shm := func(options ...plan.Option) plan.Mount {
		return plan.Mount{Target: "/dev/shm", Source: "shm", Type: "tmpfs", Fixed: true, Flags: quiet,
			Options: append([]plan.Option{{Key: "mode", Value: "1777"}}, options...)}
	}
	mqueue := plan.Mount{Target: "/dev/mqueue", Source: "mqueue", Type: "mqueue", Fixed: true, Flags: quiet}
	own := []launcher.Namespace{launcher.IPC}
	size := plan.Option{Key: "size", Value: "64m"}
	for _, c := range []struct {
		name   string
		config *v1.ContainerConfig
		want   *isolator.LaunchInfo
	}{
		{"with an image", config("/r", nil), &isolator.LaunchInfo{Namespaces: own, Mounts: []plan.Mount{shm(), mqueue}}},
		{"with an image, private", config("/r", private), &isolator.LaunchInfo{Namespaces: own, Mounts: []plan.Mount{shm(), mqueue}}},
		{"with an image, sized", config("/r", sized), &isolator.LaunchInfo{Namespaces: own, Mounts: []plan.Mount{shm(size), mqueue}}},
		{"with an image, shared", config("/r", shared), &isolator.LaunchInfo{Mounts: []plan.Mount{{Target: "/dev/shm", Source: "/dev/shm", Fixed: true}}}},
		{"on the host", config("", nil), &isolator.LaunchInfo{Namespaces: own}},
		{"on the host, sized", config("", sized), &isolator.LaunchInfo{Namespaces: own, Mounts: []plan.Mount{shm(size)}}},
		{"on the host, private", config("", private), &isolator.LaunchInfo{Namespaces: own, Mounts: []plan.Mount{shm()}}},
		{"on the host, shared", config("", shared), nil},
	} {
		got, err := New(Options{}).Prepare(t.Context(), &isolator.Container{Config: c.config})
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
}

// What is nested has the namespace of its parent unless it says otherwise, and its /dev/shm if
// it says so, or has no image.
func TestNested(t *testing.T) {
	i := New(Options{})
	for _, c := range []struct {
		name          string
		parent, child *v1.ContainerConfig
		shm           string // "own", "parent's", or "": nothing is mounted
	}{
		{"with an image", config("/r", nil), config("/c", nil), "own"},
		{"with an image, shared", config("/r", nil), config("/c", shared), "parent's"},
		{"with an image, shared by one on the host", config("", nil), config("/c", shared), "parent's"},
		{"with an image, shared by one that shares the host's", config("/r", shared), config("/c", shared), "parent's"},
		{"without one, in one with", config("/r", nil), config("", nil), "parent's"},
		{"without one, shared, in one with", config("/r", nil), config("", shared), "parent's"},
		{"without one, in one with a size", config("", sized), config("", nil), "parent's"},
		{"without one, in one that is private", config("", private), config("", nil), "parent's"},
		{"without one, in one on the host", config("", nil), config("", nil), ""},
		{"without one, in one that shares the host's", config("/r", shared), config("", nil), ""},
	} {
		parent := &isolator.Container{Config: c.parent}
		for depth, around := range []*isolator.Container{parent, {Config: config("", nil), Parent: parent}} {
			info, err := i.Prepare(t.Context(), &isolator.Container{Config: c.child, Parent: around})
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			shm := ""
			for _, m := range info.Mounts {
				switch {
				case m.Target == "/dev/shm" && m.OfParent && m.Type == "":
					shm = "parent's"
				case m.Target == "/dev/shm" && !m.OfParent && m.Type == "tmpfs":
					shm = "own"
				}
			}
			if shm != c.shm || len(info.Namespaces) > 0 || len(info.Enter) != 1 {
				t.Errorf("%s, depth %d: %+v, want /dev/shm %s", c.name, depth+1, info, c.shm)
			}
		}
	}
	if _, err := i.Prepare(t.Context(), &isolator.Container{Config: config("/c", sized), Parent: &isolator.Container{Config: config("/r", nil)}}); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("a size of what it shares, or might: %v", err)
	}
}

// The operator's size is that of every /dev/shm of a container's own, unless it has one.
func TestTheDefaultSize(t *testing.T) {
	parent := &isolator.Container{Config: config("/r", nil)}
	for name, c := range map[string]struct {
		container *isolator.Container
		size      string // "": there is no /dev/shm
	}{
		"with an image":            {&isolator.Container{Config: config("/r", nil)}, "1048576"},
		"sized":                    {&isolator.Container{Config: config("/r", sized)}, "64m"},
		"on the host":              {&isolator.Container{Config: config("", nil)}, ""},
		"on the host, private":     {&isolator.Container{Config: config("", private)}, "1048576"},
		"nested":                   {&isolator.Container{Config: config("/r", nil), Parent: parent}, "1048576"},
		"nested, private":          {&isolator.Container{Config: config("/r", private), Parent: parent}, "1048576"},
		"nested, sized":            {&isolator.Container{Config: config("/r", &v1.LinuxInfo{IpcMode: v1.LinuxInfo_PRIVATE.Enum(), ShmSize: proto.Uint32(64)}), Parent: parent}, "64m"},
		"nested, without an image": {&isolator.Container{Config: config("", nil), Parent: parent}, ""},
	} {
		info, err := New(Options{ShmSize: 1 << 20}).Prepare(t.Context(), c.container)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var size string
		for _, m := range info.Mounts {
			if m.Target == "/dev/shm" && m.Type != "" {
				size = m.Options[len(m.Options)-1].Value
			}
		}
		if size != c.size {
			t.Errorf("%s: /dev/shm has the size %q, want %q", name, size, c.size)
		}
	}
}
