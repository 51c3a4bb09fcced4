//go:build linux

package bench

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/internal/testrig"
)

// BenchmarkAgentLaunch is about what the way through an agent costs: a call to launch and one
// to wait, beside the same launch, with the same backend, through the library.
func BenchmarkAgentLaunch(b *testing.B) {
	s := newLaunches(b)
	a := s.startAgent(b, "BERTH_IMAGE_PROVISIONER_BACKEND="+s.backend)
	ten := func(one func() error) work { return times(starts, one) }
	contest{title: "Launch to exit of `true`, through the agent", disk: s.disk, per: starts, rounds: 15, contenders: []contender{
		{"LAUNCH_CONTAINER, WAIT_CONTAINER", nil, func(*testing.B) (work, func()) { return ten(a.launchAndWait), a.removeAll }},
		{"the library", nil, func(*testing.B) (work, func()) { return ten(s.launch), nothing }},
	}}.run(b)
}

// BenchmarkAgentWithIdleContainers is about an agent that looks after many: how long it takes
// to tell of them all, with what each uses, and how much memory it has.
func BenchmarkAgentWithIdleContainers(b *testing.B) {
	count := 1000
	if testing.Short() {
		count = 100
	}
	s := newLaunches(b)
	a := s.startAgent(b)
	var parallel sync.WaitGroup
	for range 20 {
		parallel.Go(func() {
			for range count / 20 {
				if err := a.launch(a.next(), "sleep", "100000"); err != nil {
					b.Error(err)
				}
			}
		})
	}
	parallel.Wait()
	list := &v1.Call{Type: v1.Call_GET_CONTAINERS.Enum(), GetContainers: &v1.Call_GetContainers{ShowStandalone: proto.Bool(true)}}
	ask := func() (int64, error) {
		answer, _, err := a.Call(context.Background(), list)
		if got := len(answer.GetGetContainers().GetContainers()); err == nil && got != count {
			err = fmt.Errorf("it tells of %d", got)
		}
		return a.resident(b), err
	}
	asked := func(after time.Duration) func(*testing.B) (work, func()) {
		return func(*testing.B) (work, func()) { time.Sleep(after); return ask, nothing }
	}
	time.Sleep(20 * time.Second) // by then the agent knows what all of them use
	contest{title: fmt.Sprintf("GET_CONTAINERS of %d idle containers, and the memory of the agent", count), disk: s.disk, rounds: 9, contenders: []contender{
		{"asked for the first time", nil, asked(10 * time.Second)},
		{"asked again a second later", nil, asked(time.Second)},
	}}.run(b)
	a.removeAll()
}

// agent is one that runs beside the benchmark.
type agent struct {
	*client.Client
	tb      testing.TB
	process *testrig.Process
	image   *v1.Image

	mu    sync.Mutex
	count int
	there []string
}

// startAgent starts one whose directories lie where those of the library do; env is added to
// its environment.
func (s *launches) startAgent(b *testing.B, env ...string) *agent {
	b.Helper()
	command := testrig.Berth(b)
	command.WorkDir, command.RuntimeDir, command.Env = s.disk+"/agent", s.run+"/agent", env
	a := &agent{Client: client.New(filepath.Join(command.RuntimeDir, "agent.sock")), tb: b, process: command.Start("agent"), image: s.image}
	b.Cleanup(func() {
		a.Close()
		a.process.Signal(syscall.SIGTERM)
		a.process.Wait()
	})
	for ready := false; !ready; time.Sleep(10 * time.Millisecond) {
		_, log := a.process.Output()
		ready = strings.Contains(log, "the agent is ready")
	}
	if err := a.launch("first", "true"); err != nil { // which gets the image
		b.Fatal(err)
	}
	a.there = []string{"first"}
	a.removeAll()
	return a
}

func (a *agent) next() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	id := fmt.Sprint("c", a.count)
	a.there = append(a.there, id)
	return id
}

func rootID(id string) *v1.ContainerID { return &v1.ContainerID{Value: proto.String(id)} }

func (a *agent) launch(id string, args ...string) error {
	_, _, err := a.Call(context.Background(), &v1.Call{Type: v1.Call_LAUNCH_CONTAINER.Enum(), LaunchContainer: &v1.Call_LaunchContainer{
		ContainerId: rootID(id), ImageArguments: args,
		Limits:    map[string]*v1.Value_Scalar{"cpus": {Value: proto.Float64(math.Inf(1))}, "mem": {Value: proto.Float64(math.Inf(1))}},
		Container: &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum(), Mesos: &v1.ContainerInfo_MesosInfo{Image: a.image}, NetworkInfos: []*v1.NetworkInfo{{Name: proto.String("none")}}},
	}})
	return err
}

func (a *agent) launchAndWait() error {
	id := a.next()
	if err := a.launch(id, "true"); err != nil {
		return err
	}
	ended, _, err := a.Call(context.Background(), &v1.Call{Type: v1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &v1.Call_WaitContainer{ContainerId: rootID(id)}})
	if err == nil && ended.GetWaitContainer().GetExitStatus() != 0 {
		err = fmt.Errorf("it ended with %v", ended)
	}
	return err
}

// removeAll removes what was launched.
func (a *agent) removeAll() {
	for _, id := range a.there {
		if _, _, err := a.Call(context.Background(), &v1.Call{Type: v1.Call_REMOVE_CONTAINER.Enum(),
			RemoveContainer: &v1.Call_RemoveContainer{ContainerId: rootID(id), Force: proto.Bool(true)}}); err != nil {
			a.tb.Error(err)
		}
	}
	a.there = nil
}

// resident is the memory of the agent, in KiB.
func (a *agent) resident(b *testing.B) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib
}
