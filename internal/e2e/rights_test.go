//go:build linux

package e2e

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
)

// principal asks by TCP.
type principal struct {
	http.RoundTripper
	name string
}

func (p principal) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(p.name, "s")
	return p.RoundTripper.RoundTrip(r)
}

func newPrincipal(t *testing.T, address, name string) *operator {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &operator{t, &http.Client{Transport: principal{transport, name}}, true}
}

// Who comes by TCP may do what the ACLs say with the containers of the users that they name,
// and nothing else.
func TestRightsByTCP(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	dir := testrig.TempDir(t)
	credentials := filepath.Join(dir, "credentials")
	if err := os.WriteFile(credentials, []byte(`{"credentials": [{"principal": "admin", "secret": "s"}, {"principal": "worker", "secret": "s"}, {"principal": "guest", "secret": "s"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	// A worker may everything with what is user 1000's.
	acls := `{"get_endpoints": [{"principals": {"values": ["admin"]}, "paths": {"type": "ANY"}}]`
	for _, list := range []string{"launch_standalone_containers", "wait_standalone_containers", "kill_standalone_containers", "remove_standalone_containers", "view_standalone_containers",
		"launch_nested_containers_as_user", "launch_nested_containers_under_parent_with_user", "launch_nested_container_sessions_as_user", "launch_nested_container_sessions_under_parent_with_user",
		"wait_nested_containers", "kill_nested_containers", "remove_nested_containers", "view_containers", "attach_containers_input", "attach_containers_output", "access_sandboxes"} {
		acls += `, "` + list + `": [{"principals": {"values": ["admin"]}, "users": {"type": "ANY"}}, {"principals": {"values": ["worker"]}, "users": {"values": ["1000"]}}]`
	}
	address := "127.0.0.1:" + freePort(t)
	agent := startAgent(t, b, "--http_address="+address, "--http_credentials="+credentials, "--acls="+acls+"}")
	admin, worker, guest := newPrincipal(t, address, "admin"), newPrincipal(t, address, "worker"), newPrincipal(t, address, "guest")

	as1000 := func(text string) *v1.CommandInfo {
		return &v1.CommandInfo{Value: proto.String(text), User: proto.String("1000")}
	}
	events, records := worker.stream(&v1.Call{Type: v1.Call_SUBSCRIBE_EVENTS.Enum()})
	defer events.Close()
	admin.expect(launchOf(rootID("roots"), image, script("sleep 1000")), 200, "")
	worker.expect(launchOf(rootID("works"), image, as1000("sleep 1000")), 200, "")
	worker.expect(launchOf(rootID("no"), image, script("true")), 403, "launch_standalone_containers")

	seen := func(o *operator) (ids []string) {
		all := &v1.Call{Type: v1.Call_GET_CONTAINERS.Enum(), GetContainers: &v1.Call_GetContainers{ShowStandalone: proto.Bool(true), ShowNested: proto.Bool(true)}}
		for _, c := range o.answer(all).GetGetContainers().GetContainers() {
			ids = append(ids, c.GetContainerId().GetValue())
		}
		return ids
	}
	for who, want := range map[*operator]string{admin: "roots works", worker: "works", guest: ""} {
		if got := strings.Join(seen(who), " "); got != want {
			t.Errorf("of the containers one sees %q, want %q", got, want)
		}
	}

	on := func(parent string) map[string]*v1.Call {
		id, child := rootID(parent), childID(parent, "x")
		return map[string]*v1.Call{
			"wait_standalone":   waitOf(id),
			"kill_standalone":   killOf(id, nil),
			"remove_standalone": removeOf(id),
			"stop":              {Type: v1.Call_STOP_CONTAINER.Enum(), StopContainer: &v1.Call_StopContainer{ContainerId: id}},
			"update":            {Type: v1.Call_UPDATE_CONTAINER.Enum(), UpdateContainer: &v1.Call_UpdateContainer{ContainerId: id}},
			"processes":         {Type: v1.Call_GET_PROCESSES.Enum(), GetProcesses: &v1.Call_GetProcesses{ContainerId: id}},
			"output":            {Type: v1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &v1.Call_AttachContainerOutput{ContainerId: id}},
			"launch_nested":     {Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{ContainerId: child, Command: as1000("true")}},
			"session":           {Type: v1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(), LaunchNestedContainerSession: &v1.Call_LaunchNestedContainerSession{ContainerId: child, Command: as1000("true")}},
			"wait_nested":       {Type: v1.Call_WAIT_NESTED_CONTAINER.Enum(), WaitNestedContainer: &v1.Call_WaitNestedContainer{ContainerId: child}},
			"kill_nested":       {Type: v1.Call_KILL_NESTED_CONTAINER.Enum(), KillNestedContainer: &v1.Call_KillNestedContainer{ContainerId: child}},
			"remove_nested":     {Type: v1.Call_REMOVE_NESTED_CONTAINER.Enum(), RemoveNestedContainer: &v1.Call_RemoveNestedContainer{ContainerId: child}},
		}
	}
	for name, call := range on("roots") {
		t.Run(name, func(t *testing.T) {
			for _, who := range []*operator{worker, guest} {
				who.expect(call, 403, "has not the right")
			}
		})
	}
	if code, text := worker.input(rootID("roots"), typed("x")); code != 403 {
		t.Errorf("input: %d %q", code, text)
	}
	for name, call := range on("works") {
		t.Run("one's own: "+name, func(t *testing.T) { guest.expect(call, 403, "has not the right") })
	}
	for _, call := range []*v1.Call{
		{Type: v1.Call_GET_FLAGS.Enum()}, {Type: v1.Call_GET_METRICS.Enum(), GetMetrics: &v1.Call_GetMetrics{}}, {Type: v1.Call_GET_IMAGES.Enum()}, {Type: v1.Call_PRUNE_IMAGES.Enum()},
		{Type: v1.Call_GET_ABILITIES.Enum()}, {Type: v1.Call_PULL_IMAGE.Enum(), PullImage: &v1.Call_PullImage{Image: &v1.Image{Type: v1.Image_DOCKER.Enum()}}},
		{Type: v1.Call_SET_LOGGING_LEVEL.Enum(), SetLoggingLevel: &v1.Call_SetLoggingLevel{Level: proto.Uint32(1), Duration: &v1.DurationInfo{Nanoseconds: proto.Int64(1)}}},
		{Type: v1.Call_LIST_FILES.Enum(), ListFiles: &v1.Call_ListFiles{Path: proto.String(filepath.Join(b.WorkDir, "containers", "roots"))}},
		{Type: v1.Call_READ_FILE.Enum(), ReadFile: &v1.Call_ReadFile{Path: proto.String(filepath.Join(b.WorkDir, "containers", "roots", "stdout")), Offset: proto.Uint64(0)}},
	} {
		worker.expect(call, 403, "has not the right")
	}
	for _, path := range olderEndpoints {
		if answer, body := worker.get(path); answer.StatusCode != 403 && path != "/health" && path != "/version" {
			t.Errorf("%s: %s %.200q", path, answer.Status, body)
		}
	}
	if answer, body := admin.get("/containers"); answer.StatusCode != 200 || !strings.Contains(body, "roots") {
		t.Errorf("/containers: %s %q", answer.Status, body)
	}

	// With one's own, everything.
	worker.answer(on("works")["processes"])
	worker.answer(&v1.Call{Type: v1.Call_LIST_FILES.Enum(), ListFiles: &v1.Call_ListFiles{Path: proto.String(filepath.Join(b.WorkDir, "containers", "works"))}})
	worker.expect(on("works")["launch_nested"], 200, "")
	worker.answer(on("works")["wait_nested"])
	worker.expect(on("works")["remove_nested"], 200, "")
	worker.expect(killOf(rootID("works"), nil), 200, "")
	worker.answer(waitOf(rootID("works")))
	worker.expect(removeOf(rootID("works")), 200, "")
	admin.expect(killOf(rootID("roots"), nil), 200, "")
	admin.answer(waitOf(rootID("roots")))
	admin.expect(removeOf(rootID("roots")), 200, "")

	// The worker has heard of nothing else.
	var heard []string
	for last := ""; last != "container.removed works"; {
		record, err := records.Next()
		if err != nil {
			t.Fatal(err)
		}
		event := &v1.Event{}
		worker.decode(record, event)
		last = event.GetType() + " " + event.GetContainerId().GetValue()
		if event.GetContainerId().GetParent() == nil && event.GetType() != "heartbeat" {
			heard = append(heard, last)
		}
	}
	if got := strings.Join(heard, ", "); got != "container.launched works, container.ended works, container.removed works" {
		t.Errorf("the worker has heard of %s", got)
	}
	events.Close()
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}
