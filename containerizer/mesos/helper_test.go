//go:build linux

package mesos

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/disk"
	"berth/isolator"
	"berth/launcher"
	"berth/layer"
	"berth/provisioner/store"
)

// points are the moments of a launch at which a test can interfere, in order; the
// last one is in the undoing.
var points = []string{"provisioning", "preparing", "prepared", "forking", "forked", "isolating", "isolated", "releasing", "released", "cleaning"}

// hook is called at every point.
type hook func(ctx context.Context, point string) error

// into puts the hook into the parts.
func (h hook) into(p *parts) {
	p.store = hookedStore{p.store, h}
	p.launcher = hookedLauncher{p.launcher, h}
	first := &hookedIsolator{h, "preparing", "isolating", "cleaning"}
	last := &hookedIsolator{h, "prepared", "isolated", ""}
	p.isolators = append(append([]isolator.Isolator{first}, p.isolators...), last)
}

type hookedStore struct {
	store.Store
	hook
}

func (s hookedStore) Get(ctx context.Context, img *v1.Image, form layer.Form) (*store.Image, error) {
	if err := s.hook(ctx, "provisioning"); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, img, form)
}

type hookedIsolator struct {
	hook
	prepare, isolate, cleanup string
}

func (i *hookedIsolator) Prepare(ctx context.Context, _ *isolator.Container) (*isolator.LaunchInfo, error) {
	return nil, i.hook(ctx, i.prepare)
}

func (i *hookedIsolator) Isolate(ctx context.Context, _ *isolator.Container, _ int) error {
	return i.hook(ctx, i.isolate)
}

func (i *hookedIsolator) Cleanup(ctx context.Context, _ container.ID) error {
	if i.cleanup == "" {
		return nil
	}
	return i.hook(ctx, i.cleanup)
}

type hookedLauncher struct {
	launcher.Launcher
	hook
}

func (l hookedLauncher) Fork(ctx context.Context, id container.ID, spec launcher.Spec) (launcher.Process, error) {
	if err := l.hook(ctx, "forking"); err != nil {
		return nil, err
	}
	p, err := l.Launcher.Fork(ctx, id, spec)
	if err != nil {
		return p, err
	}
	// Whoever fails here loses the process, as if it had failed in the middle of Fork.
	return hookedProcess{p, l.hook}, l.hook(ctx, "forked")
}

type hookedProcess struct {
	launcher.Process
	hook
}

func (p hookedProcess) Release(ctx context.Context) error {
	if err := p.hook(ctx, "releasing"); err != nil {
		return err
	}
	if err := p.Process.Release(ctx); err != nil {
		return err
	}
	return p.hook(ctx, "released")
}

// A helper is this program in another process, which launches a container in a world
// and lives with it until its standard input ends, or dies before.
const helperVariable = "BERTH_TEST_HELPER"

type helper struct {
	World world
	ID    string
	Args  []string
	// Die is the point at which it kills itself with SIGKILL.
	Die string
	// DieAt is a place at which it does (disk.At), and DieStep the number of one among all
	// steps that it takes on disk; if it gets through the launch it destroys the container.
	DieAt   string
	DieStep int
	// Logs are those of the container's outputs, which go to its sandbox; nil: to nowhere.
	Logs *containerizer.Logs
	// Input is what it writes to the container's input before it says that it has launched it;
	// the outputs go to the sandbox, or with a Terminal to that.
	Input    string
	Terminal bool
	// Operator makes it provision only.
	Operator bool
	// Mapped gives it a user namespace.
	Mapped bool
	// Agent makes that the keeper, and Nested are the values of containers in the one with
	// the id, each in the one before; the last one is at which it dies.
	Agent  bool
	Nested []string
	// Idle makes it launch so many other containers, and be killed.
	Idle int
}

// help is the life of a helper.
func help(text string) {
	var h helper
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		panic(err)
	}
	if err := h.run(); err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
}

func (h helper) run() error {
	armed := len(h.Nested) == 0
	if h.DieAt != "" || h.DieStep > 0 {
		var steps atomic.Int64
		disk.Intercept(func(step disk.Step) error {
			if armed && (step.Op == disk.Reached && step.Path == h.DieAt || int(steps.Add(1)) == h.DieStep) {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return nil
		})
	}
	c, _, err := h.World.open(hook(func(_ context.Context, point string) error {
		if armed && point == h.Die {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}).into)
	if err != nil {
		return err
	}
	if h.Idle > 0 {
		fmt.Println("ready")
		return launchIdle(c, h.Idle)
	}
	id, err := container.ParseID(h.ID)
	if err != nil {
		return err
	}
	ctx := context.Background()
	fmt.Println("ready")
	if h.Operator {
		return c.ProvisionOnly(ctx, id, func(ctx context.Context) error {
			_, err := c.Provisioner.Provision(ctx, id, imageInfo(baseImage).GetMesos().GetImage())
			return err
		})
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	request := withVolumes(config(baseImage, h.Args...))
	request.Limits = map[string]*v1.Value_Scalar{"mem": {Value: proto.Float64(64)}}
	if h.Mapped {
		request = mapped(request)
	}
	keeper := containerizer.Foreground
	if h.Agent {
		keeper = containerizer.Agent
	}
	req := containerizer.Request{Config: request, Stdio: [3]*os.File{null, null, null}, Keeper: keeper}
	if h.Logs != nil {
		req.Stdio, req.Logs = [3]*os.File{}, *h.Logs
	}
	if h.Input != "" {
		req.Stdio, req.Input = [3]*os.File{}, true
	}
	if h.Terminal {
		withTerminal(request)
	}
	if err := c.Launch(ctx, id, req); err != nil {
		return err
	}
	if h.Input != "" {
		in, err := c.AttachInput(ctx, id)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(in, h.Input); err != nil {
			return err
		}
	}
	for n, value := range h.Nested {
		if id, err = id.Child(value); err != nil {
			return err
		}
		armed = n == len(h.Nested)-1
		child := config(baseImage, h.Args...)
		if value == "debug" {
			child = debug("sleep 1000")
		}
		if err := c.Launch(ctx, id, containerizer.Request{Config: child, Stdio: [3]*os.File{null, null, null}}); err != nil {
			return err
		}
	}
	fmt.Println("launched")
	if h.DieAt != "" || h.DieStep > 0 {
		_, err := c.Destroy(ctx, id)
		return err
	}
	if h.Die == "cleaning" {
		_, err := c.Wait(ctx, id)
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	_, err = c.Destroy(ctx, id)
	return err
}

// helperProcess is a helper that was started.
type helperProcess struct {
	testing.TB
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

func (r *rig) startHelper(h helper) *helperProcess {
	r.Helper()
	h.World = r.world
	text, err := json.Marshal(h)
	if err != nil {
		r.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	p := &helperProcess{TB: r.TB, cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), helperVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		r.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		r.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(p.kill)
	return p
}

// says reads a line of the helper.
func (p *helperProcess) says(want string) {
	p.Helper()
	if line, err := p.stdout.ReadString('\n'); err != nil || strings.TrimSpace(line) != want {
		p.Fatalf("the helper says %q, %v, want %q", line, err, want)
	}
}

// kill kills it unless it was waited for already.
func (p *helperProcess) kill() {
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil {
		p.Error(err)
	}
	p.cmd.Wait()
}

// diesKilled waits for its end by SIGKILL.
func (p *helperProcess) diesKilled() {
	p.Helper()
	err := p.cmd.Wait()
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		p.Errorf("the helper ended with %v, not by its own hand", err)
	}
}
