//go:build linux

package e2e

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/testrig"
)

// load is how much an agent has to bear. It is killed each time that a share of the containers
// has ended: every few seconds.
type load struct {
	launches, parallel, waits, attaches, lines, kills int
}

func loadSize() load {
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		return load{launches: 500, parallel: 50, waits: 1000, attaches: 200, lines: 1_400_000, kills: 49} // of 10 MB each
	}
	return load{launches: 60, parallel: 20, waits: 100, attaches: 10, lines: 300_000, kills: 3}
}

// The agent is killed again and again while clients launch, wait and read. They ask again
// when there is no agent, and everybody learns what they asked for.
func TestTheAgentUnderLoadIsKilledAgainAndAgain(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	size := loadSize()
	b := testrig.Berth(t)
	g := newGenerations(t, b, testrig.BusyboxImage(t, reg, "busybox:1"))
	g.lifeOf("first", 1) // pulls the image
	fresh := g.usage()
	g.ask(launchOf(rootID("held"), g.image, script("trap 'exit 9' TERM; while :; do sleep 0.1; done")))

	var waiting, working sync.WaitGroup
	for range size.waits {
		waiting.Go(func() { g.wantStatus("held", 9) })
	}
	want := digestOfLines(size.lines)
	var asked, attached atomic.Int64
	for range (size.attaches + 9) / 10 {
		working.Go(func() {
			for n := int(attached.Add(1)); n <= size.attaches; n = int(attached.Add(1)) {
				g.readAll(fmt.Sprint("out", n), size.lines, want)
			}
		})
	}
	ended := make(chan struct{}, size.launches)
	for range size.parallel {
		working.Go(func() {
			for n := int(asked.Add(1)); n <= size.launches; n = int(asked.Add(1)) {
				g.lifeOf(fmt.Sprint("c", n), n%100)
				ended <- struct{}{}
			}
		})
	}
	var least, most int // of the memory of a generation under load
	for n := range size.launches {
		<-ended
		if share := size.launches / (size.kills + 1); (n+1)%share == 0 && (n+1)/share <= size.kills {
			used, began := g.usage(), time.Now()
			least, most = min(cmp.Or(least, used.resident), used.resident), max(most, used.resident)
			g.replace()
			t.Logf("when %d have ended the agent has %v; after %v the next one is ready", n+1, used, time.Since(began).Round(time.Millisecond))
		}
	}
	working.Wait()
	if code := g.ask(killOf(rootID("held"), proto.Int32(15))); code != 200 {
		t.Errorf("kill: %d", code)
	}
	waiting.Wait()
	if g.ask(removeOf(rootID("held"))) != 200 {
		t.Error("it was not removed")
	}
	g.client.Close()
	await(t, func() bool { return g.usage().descriptors <= fresh.descriptors })
	t.Logf("at the end: %v; at the start: %v; memory under load: %d to %d KB", g.usage(), fresh, least, most)
	if most > 2*least {
		t.Error("the memory of the generations differs by more than the half")
	}
	g.agent.Signal(syscall.SIGTERM)
	expect(t, g.agent.Wait(), 0)
	wantNoContainers(t, b)
}

// generations are the agents on one work directory, one after the other.
type generations struct {
	*testing.T
	berth  *testrig.Command
	image  string
	client *client.Client
	agent  *testrig.Process

	mu sync.Mutex
	up chan struct{} // closed while the agent is ready
}

func newGenerations(t *testing.T, b *testrig.Command, image string) *generations {
	g := &generations{T: t, berth: b, image: image, client: client.New(filepath.Join(b.RuntimeDir, "agent.sock")), up: make(chan struct{})}
	g.agent = startAgent(t, b)
	close(g.up)
	return g
}

// replace kills the agent, and starts the next one.
func (g *generations) replace() {
	next := make(chan struct{})
	g.mu.Lock()
	g.up = next
	g.mu.Unlock()
	g.agent.Signal(syscall.SIGKILL)
	g.agent.Wait()
	g.agent = startAgent(g.T, g.berth)
	close(next)
}

// await waits until there is an agent that answers.
func (g *generations) await() {
	g.mu.Lock()
	up := g.up
	g.mu.Unlock()
	<-up
}

// try does something until it is not for want of an agent that it fails.
func (g *generations) try(do func() error) (err error, again bool) {
	for {
		g.await()
		if err = do(); !errors.Is(err, container.ErrUnavailable) {
			return err, again
		}
		again = true
	}
}

// ask returns the code of the answer.
func (g *generations) ask(call *v1.Call) (code int) {
	err, _ := g.try(func() (err error) {
		_, code, err = g.client.Call(context.Background(), call)
		return err
	})
	if err != nil {
		g.Errorf("%s: %v", call.GetType(), err)
	}
	return code
}

// launch launches a container. Who has had no answer does not know whether it was launched:
// they ask again, and are told that it runs, or that it is there and has ended.
func (g *generations) launch(id, command string) {
	err, again := g.try(func() error {
		_, _, err := g.client.Call(context.Background(), launchOf(rootID(id), g.image, script(command)))
		return err
	})
	if err != nil && !(again && errors.Is(err, container.ErrExists)) {
		g.Errorf("launch %s: %v", id, err)
	}
}

func (g *generations) wantStatus(id string, code int32) {
	var ended *v1.Response
	err, _ := g.try(func() (err error) {
		ended, _, err = g.client.Call(context.Background(), waitOf(rootID(id)))
		return err
	})
	if got := ended.GetWaitContainer().ExitStatus; err != nil || got == nil || *got != code<<8 {
		g.Errorf("%s ended with %v, %v; want %d", id, ended, err, code)
	}
}

// lifeOf launches a container, waits for it, and removes it.
func (g *generations) lifeOf(id string, code int) {
	g.launch(id, fmt.Sprintf("sleep 0.%d; exit %d", code%10, code))
	g.wantStatus(id, int32(code))
	g.ask(removeOf(rootID(id)))
}

func digestOfLines(lines int) string {
	sum := sha256.New()
	for n := range lines {
		sum.Write(append(strconv.AppendInt(nil, int64(n+1), 10), '\n'))
	}
	return string(sum.Sum(nil))
}

// readAll compares what a container writes with what a client reads of it.
func (g *generations) readAll(id string, lines int, want string) {
	g.launch(id, fmt.Sprintf("seq 1 %d; exit 3", lines))
	var got string
	if err, _ := g.try(func() (err error) { got, err = g.digest(id); return err }); err != nil {
		g.Errorf("read the output of %s: %v", id, err)
	}
	if got != want {
		g.Errorf("the output of %s is another one", id)
	}
	g.wantStatus(id, 3)
	g.ask(removeOf(rootID(id)))
}

// digest is that of all that a container writes.
func (g *generations) digest(id string) (string, error) {
	stream, err := g.client.Stream(context.Background(), &v1.Call{Type: v1.Call_ATTACH_CONTAINER_OUTPUT.Enum(),
		AttachContainerOutput: &v1.Call_AttachContainerOutput{ContainerId: rootID(id), FromBeginning: proto.Bool(true)}})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	sum := sha256.New()
	for {
		m := &v1.ProcessIO{}
		switch err := stream.Next(m); {
		case err == io.EOF:
			return string(sum.Sum(nil)), nil
		case err != nil:
			return "", err
		}
		sum.Write(m.GetData().GetData())
	}
}

// usage is what a process has of its host.
type usage struct {
	descriptors, resident int // in KB
}

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors, %d KB resident", u.descriptors, u.resident)
}

func (g *generations) usage() usage { return usageOf(g.T, g.agent.Pid) }

func usageOf(t *testing.T, pid int) (u usage) {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	u.descriptors = len(open)
	if u.resident, err = strconv.Atoi(strings.Fields(rest)[0]); err != nil {
		t.Fatal(err)
	}
	return u
}
