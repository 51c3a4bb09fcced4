package posix

import (
	"errors"
	"strings"
	"testing"

	"berth/container"
	"berth/launcher"
	"berth/launcher/launchertest"
	"berth/launcher/plan"
	"berth/state"
)

func newLauncher(t *testing.T) *Launcher {
	t.Helper()
	layout, err := state.NewLayout(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Options{Layout: layout, Dir: launchertest.Init(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestConformance(t *testing.T) {
	l := newLauncher(t)
	launchertest.Run(t, launchertest.Fixture{
		Launcher: l, Layout: l.Layout, Record: state.Container.Tree,
		Spec: launcher.Spec{Plan: plan.Plan{HostMounts: true}},
		Impossible: map[string]func(*launcher.Spec){
			"a namespace":      func(s *launcher.Spec) { s.Namespaces = []launcher.Namespace{launcher.PID} },
			"the parents":      func(s *launcher.Spec) { s.Enter = []launcher.Namespace{launcher.Network} },
			"a cgroup":         func(s *launcher.Spec) { s.Controllers = []string{"memory"} },
			"mounts":           func(s *launcher.Spec) { s.Plan.HostMounts = false },
			"a host name":      func(s *launcher.Spec) { s.Plan.Hostname = "h" },
			"a loopback alone": func(s *launcher.Spec) { s.Plan.Loopback = true },
		},
	})
}

func TestNewWantsTheInitProgram(t *testing.T) {
	_, err := New(Options{Dir: t.TempDir()})
	if !errors.Is(err, container.ErrFailedPrecondition) || !strings.Contains(err.Error(), "--launcher_dir") {
		t.Errorf("error %v", err)
	}
}
