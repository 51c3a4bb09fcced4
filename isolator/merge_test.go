package isolator_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
)

func TestMergeJoinsInOrder(t *testing.T) {
	got, err := isolator.Merge([]*isolator.LaunchInfo{
		nil,
		{
			Namespaces: []launcher.Namespace{launcher.PID, launcher.Mount}, Controllers: []string{"pids", "cpu"},
			Mounts: []plan.Mount{{Target: "/a"}}, Nodes: []plan.Node{{Path: "/n1"}}, Links: []plan.Link{{Path: "/l1"}},
			Masked: []string{"/m1"}, ReadOnly: []string{"/r1"}, Env: []string{"A=1"}, User: "u",
			Volumes: []plan.Mount{{Target: "/v"}}, ForUser: []string{"x"},
		},
		{},
		{
			Namespaces: []launcher.Namespace{launcher.Mount}, Controllers: []string{"cpu"},
			Mounts: []plan.Mount{{Target: "/a/b"}, {Target: "/c"}}, Nodes: []plan.Node{{Path: "/n2"}}, Links: []plan.Link{{Path: "/l2"}},
			Masked: []string{"/m2"}, ReadOnly: []string{"/r2"}, Env: []string{"A=2"}, Hostname: "h", Loopback: true,
			Volumes: []plan.Mount{{Target: "/u"}}, ForUser: []string{"y"},
			Command: &isolator.Command{Path: "c"}, WorkingDir: "/w", StopSignal: 3,
		},
		{},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := isolator.LaunchInfo{
		Namespaces: []launcher.Namespace{launcher.Mount, launcher.PID}, Controllers: []string{"cpu", "pids"},
		Mounts: []plan.Mount{{Target: "/a"}, {Target: "/a/b"}, {Target: "/c"}},
		Nodes:  []plan.Node{{Path: "/n1"}, {Path: "/n2"}}, Links: []plan.Link{{Path: "/l1"}, {Path: "/l2"}},
		Masked: []string{"/m1", "/m2"}, ReadOnly: []string{"/r1", "/r2"}, Env: []string{"A=1", "A=2"},
		Volumes: []plan.Mount{{Target: "/u"}, {Target: "/v"}}, ForUser: []string{"x", "y"},
		User: "u", Hostname: "h", Loopback: true, Command: &isolator.Command{Path: "c"}, WorkingDir: "/w", StopSignal: 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMergeOfNothingIsNothing(t *testing.T) {
	got, err := isolator.Merge(nil)
	if diff := cmp.Diff(isolator.LaunchInfo{}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestWhatOnlyOneMaySayIsRefusedTwice(t *testing.T) {
	for what, info := range map[string]isolator.LaunchInfo{
		"command":           {Command: &isolator.Command{Path: "c"}},
		"user":              {User: "u"},
		"working directory": {WorkingDir: "/w"},
		"stop signal":       {StopSignal: 3},
		"host name":         {Hostname: "h"},
	} {
		t.Run(what, func(t *testing.T) {
			second := info
			_, err := isolator.Merge([]*isolator.LaunchInfo{&info, {}, &second})
			if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), what) {
				t.Errorf("error %v: want one of class ErrInvalid that names the %s", err, what)
			}
		})
	}
}

func TestForWhichContainersAnIsolatorIsAsked(t *testing.T) {
	root := &isolator.Container{Config: &v1.ContainerConfig{}}
	own := &isolator.Container{Parent: root, Config: &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{LinuxInfo: &v1.LinuxInfo{ShareCgroups: proto.Bool(false)}}}}
	sharing := &isolator.Container{Parent: root, Config: &v1.ContainerConfig{}}
	debug := &isolator.Container{Parent: root, Config: &v1.ContainerConfig{ContainerClass: v1.ContainerClass_DEBUG.Enum()}}
	for name, c := range map[string]struct {
		i    isolator.Isolator
		want [4]bool // root, own, sharing, debug
	}{
		"says nothing":   {silent{}, [4]bool{true, true, true, false}},
		"nothing nested": {supporter{isolator.Support{}, silent{}}, [4]bool{true, false, false, false}},
		"own cgroups":    {supporter{isolator.Support{Nested: true}, silent{}}, [4]bool{true, true, false, false}},
		"everything":     {supporter{isolator.Support{Nested: true, SharedCgroups: true, Debug: true}, silent{}}, [4]bool{true, true, true, true}},
	} {
		var got [4]bool
		for n, of := range []*isolator.Container{root, own, sharing, debug} {
			got[n] = isolator.Supports(c.i, of)
		}
		if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

type silent struct{ isolator.Isolator }

type supporter struct {
	support isolator.Support
	silent
}

func (s supporter) Supports() isolator.Support { return s.support }
