// Package isolatortest is the conformance suite of isolators. A new isolator is done
// when Run is green for it.
package isolatortest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
)

// Requests are what the suite asks of the isolator.
type Requests struct {
	// Good is a request that the isolator has something to say to, with what comes of
	// its image, if it has one.
	Good  *v1.ContainerConfig
	Image *image.Config
	// Bad are requests that Prepare refuses.
	Bad map[string]*v1.ContainerConfig
	// HostOnly: the isolator refuses every root filesystem.
	HostOnly bool
	// Fork makes what an isolator that acts on a forked container acts on, and returns
	// the pid of its init process; Gone ends the container. nil: there is no such power.
	Fork func(t *testing.T, id container.ID) int
	Gone func(t *testing.T, id container.ID)
	// EndsNone: the isolator is a Watcher that never ends a container, and may say so at once.
	EndsNone bool
}

// patience is how long a call may take that is to return at once.
const patience = 10 * time.Second

// Run checks an isolator against the contract in package isolator.
func Run(t *testing.T, i isolator.Isolator, r Requests) {
	if r.Good == nil {
		r.Good = &v1.ContainerConfig{}
	}
	s := suite{i, r}
	t.Run("Prepare is repeatable", s.repeatable)
	t.Run("Prepare leaves the request alone", s.leavesTheRequest)
	t.Run("what Prepare returns is well-formed", s.wellFormed)
	t.Run("a request that says nothing is fulfilled", s.emptyRequest)
	t.Run("a bad request is refused with a class", s.badRequests)
	t.Run("many containers at a time", s.concurrent)
	t.Run("Cleanup of a container that was never prepared", s.cleanupOfUnknown)
	t.Run("Cleanup is repeatable, and after it Prepare", s.cleanupAgain)
	t.Run("Isolate", s.isolate)
	t.Run("Watch returns nothing when its context ends", s.watchEnds)
	t.Run("Watch says nothing of a container that is gone", s.watchGone)
	t.Run("Update", s.update)
	t.Run("Usage", s.usage)
}

type suite struct {
	isolator isolator.Isolator
	requests Requests
}

// newContainer returns a container with a request like Good, and its own id.
func (s suite) newContainer(t *testing.T, value string) *isolator.Container {
	t.Helper()
	id, err := container.ParseID(value)
	if err != nil {
		t.Fatal(err)
	}
	config := proto.CloneOf(s.requests.Good)
	if config.Rootfs != nil {
		config.Rootfs = proto.String(path.Join(config.GetRootfs(), value))
	}
	return &isolator.Container{ID: id, Config: config, Image: s.requests.Image}
}

func (s suite) prepare(t *testing.T, c *isolator.Container) *isolator.LaunchInfo {
	t.Helper()
	info, err := s.isolator.Prepare(t.Context(), c)
	if err != nil {
		t.Fatalf("Prepare %s: %v", c.ID, err)
	}
	t.Cleanup(func() { s.cleanup(t, c.ID) })
	return info
}

func (s suite) cleanup(t *testing.T, id container.ID) {
	t.Helper()
	if err := s.isolator.Cleanup(context.Background(), id); err != nil {
		t.Errorf("Cleanup %s: %v", id, err)
	}
}

func (s suite) repeatable(t *testing.T) {
	one, other := s.newContainer(t, "one"), s.newContainer(t, "other")
	first := s.prepare(t, one)
	s.prepare(t, other)
	s.cleanup(t, one.ID)
	if again := s.prepare(t, one); !reflect.DeepEqual(first, again) {
		t.Errorf("first %+v\nthen %+v", first, again)
	}
}

func (s suite) leavesTheRequest(t *testing.T) {
	c := s.newContainer(t, "one")
	before := proto.CloneOf(c.Config)
	s.prepare(t, c)
	if !proto.Equal(before, c.Config) {
		t.Errorf("the request was %v\nand is %v", before, c.Config)
	}
}

var namespaces = []launcher.Namespace{launcher.Mount, launcher.PID, launcher.IPC, launcher.UTS, launcher.Network, launcher.User}

func (s suite) wellFormed(t *testing.T) {
	info := s.prepare(t, s.newContainer(t, "one"))
	if info == nil {
		return
	}
	for _, ns := range info.Namespaces {
		if !slices.Contains(namespaces, ns) {
			t.Errorf("no launcher knows the namespace %q", ns)
		}
	}
	var paths []string
	for _, m := range slices.Concat(info.Mounts, info.Volumes) {
		paths = append(paths, m.Target)
		if m.Source == "" || m.Type == "" && !path.IsAbs(m.Source) {
			t.Errorf("the source of mount %+v is neither a path on the host nor a name", m)
		}
	}
	for _, n := range info.Nodes {
		paths = append(paths, n.Path)
	}
	for _, l := range info.Links {
		paths = append(paths, l.Path)
	}
	for _, p := range slices.Concat(paths, info.Masked, info.ReadOnly) {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			t.Errorf("path %q is not absolute and clean, or is the root", p)
		}
	}
	for _, p := range info.ForUser {
		if path.IsAbs(p) || path.Clean(p) != p || strings.HasPrefix(p+"/", "../") {
			t.Errorf("%q is not a clean path in the sandbox", p)
		}
	}
	for _, p := range info.Owned {
		if !path.IsAbs(p) || path.Clean(p) != p {
			t.Errorf("%q is not a clean path on the host", p)
		}
	}
	for _, entry := range info.Env {
		if name, _, ok := strings.Cut(entry, "="); !ok || name == "" {
			t.Errorf("%q is not NAME=VALUE", entry)
		}
	}
	if c := info.Command; c != nil && (c.Path == "" || len(c.Args) == 0) {
		t.Errorf("command %+v has no path or no argv[0]", c)
	}
	if info.StopSignal < 0 || info.StopSignal > 64 {
		t.Errorf("there is no signal %d", info.StopSignal)
	}
	if slices.Contains(info.Controllers, "") {
		t.Error("a controller without a name")
	}
	if err := (plan.Plan{Mounts: info.Mounts, Nodes: info.Nodes, Links: info.Links, Volumes: info.Volumes}).Encode(new(strings.Builder)); err != nil {
		t.Error(err)
	}
}

func (s suite) emptyRequest(t *testing.T) {
	for name, config := range map[string]*v1.ContainerConfig{
		"on the host": {Directory: proto.String("/sandbox")},
		"in a rootfs": {Directory: proto.String("/sandbox"), Rootfs: proto.String("/rootfs")},
	} {
		if s.requests.HostOnly && config.Rootfs != nil {
			continue
		}
		c := s.newContainer(t, "one")
		c.Config, c.Image = config, nil
		if _, err := s.isolator.Prepare(t.Context(), c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.cleanup(t, c.ID)
	}
}

func (s suite) badRequests(t *testing.T) {
	for name, config := range s.requests.Bad {
		c := s.newContainer(t, "bad")
		c.Config = config
		info, err := s.isolator.Prepare(t.Context(), c)
		if info != nil || !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported) {
			t.Errorf("%s: got %+v, %v, want an error of class ErrInvalid or ErrNotSupported", name, info, err)
		}
		s.cleanup(t, c.ID)
	}
}

// concurrent is of use under the race detector.
func (s suite) concurrent(t *testing.T) {
	var all sync.WaitGroup
	for n := range 20 {
		c := s.newContainer(t, fmt.Sprintf("many%d", n))
		all.Go(func() {
			if _, err := s.isolator.Prepare(t.Context(), c); err != nil {
				t.Errorf("Prepare %s: %v", c.ID, err)
			}
			s.cleanup(t, c.ID)
		})
	}
	all.Wait()
}

func (s suite) cleanupOfUnknown(t *testing.T) {
	c := s.newContainer(t, "unknown")
	s.cleanup(t, c.ID)
	s.cleanup(t, c.ID)
}

func (s suite) cleanupAgain(t *testing.T) {
	c := s.newContainer(t, "again")
	for range 2 {
		s.prepare(t, c)
		s.cleanup(t, c.ID)
		s.cleanup(t, c.ID)
	}
}

// forked returns a container that was prepared, forked and isolated.
func (s suite) forked(t *testing.T, value string) *isolator.Container {
	t.Helper()
	c := s.newContainer(t, value)
	s.prepare(t, c)
	if s.requests.Fork == nil {
		return c
	}
	pid := s.requests.Fork(t, c.ID)
	if enforcer, ok := s.isolator.(isolator.Enforcer); ok {
		if err := enforcer.Isolate(t.Context(), c, pid); err != nil {
			t.Fatalf("Isolate: %v", err)
		}
	}
	return c
}

func (s suite) isolate(t *testing.T) {
	if _, ok := s.isolator.(isolator.Enforcer); !ok {
		t.Skip("it is no Enforcer")
	}
	c := s.forked(t, "isolated")
	s.cleanup(t, c.ID)
	s.cleanup(t, c.ID)
}

// watch returns what Watch returns, in time.
func (s suite) watch(t *testing.T, ctx context.Context, id container.ID, meanwhile func()) {
	t.Helper()
	watcher, ok := s.isolator.(isolator.Watcher)
	if !ok {
		t.Skip("it is no Watcher")
	}
	type result struct {
		limitation *container.Limitation
		err        error
	}
	returned := make(chan result, 1)
	go func() {
		limitation, err := watcher.Watch(ctx, id)
		returned <- result{limitation, err}
	}()
	select {
	case r := <-returned:
		if ctx.Err() == nil && !s.requests.EndsNone {
			t.Fatalf("Watch returns %+v, %v at once", r.limitation, r.err)
		}
		returned <- r
	case <-time.After(50 * time.Millisecond):
	}
	meanwhile()
	select {
	case r := <-returned:
		if r.limitation != nil || r.err != nil {
			t.Errorf("Watch returns %+v, %v, and nothing has happened", r.limitation, r.err)
		}
	case <-time.After(patience):
		t.Fatal("Watch does not return")
	}
}

func (s suite) watchEnds(t *testing.T) {
	c := s.forked(t, "watched")
	ctx, cancel := context.WithCancel(t.Context())
	s.watch(t, ctx, c.ID, cancel)
	s.watch(t, ctx, c.ID, func() {}) // the context has ended already
}

func (s suite) watchGone(t *testing.T) {
	if s.requests.Gone == nil {
		t.Skip("its containers do not end")
	}
	c := s.forked(t, "going")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.watch(t, ctx, c.ID, func() {
		s.requests.Gone(t, c.ID)
		// Who does not look for the end of a container waits for that of ctx.
		time.AfterFunc(100*time.Millisecond, cancel)
	})
}

// An Update can be repeated and undone, and takes nothing that Prepare would refuse.
func (s suite) update(t *testing.T) {
	updater, ok := s.isolator.(isolator.Updater)
	if !ok {
		t.Skip("it is no Updater")
	}
	c := s.forked(t, "updated")
	nothing := &isolator.Container{ID: c.ID, Config: &v1.ContainerConfig{}}
	for _, to := range []*isolator.Container{c, nothing, nothing, c, c} {
		if err := updater.Update(t.Context(), to); err != nil {
			t.Error(err)
		}
	}
	for name, bad := range s.requests.Bad {
		if err := updater.Update(t.Context(), &isolator.Container{ID: c.ID, Config: bad}); !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	s.cleanup(t, c.ID)
}

// Usage tells something, and says of a container that is gone that it is.
func (s suite) usage(t *testing.T) {
	meter, ok := s.isolator.(isolator.Meter)
	if !ok {
		t.Skip("it is no Meter")
	}
	c := s.forked(t, "measured")
	usage := &v1.ResourceStatistics{}
	if err := meter.Usage(t.Context(), c.ID, usage); err != nil || proto.Size(usage) == 0 {
		t.Errorf("%v, %v", usage, err)
	}
	if s.requests.Gone != nil {
		s.requests.Gone(t, c.ID)
		if err := meter.Usage(t.Context(), c.ID, &v1.ResourceStatistics{}); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("of a container that is gone: %v", err)
		}
	}
	s.cleanup(t, c.ID)
}
