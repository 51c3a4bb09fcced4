package isolator_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
