//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
	"berth/state"
)

// buildVersion builds another version of berth, and returns its path.
func buildVersion(t *testing.T, version string) string {
	t.Helper()
	dir := testrig.TempDir(t)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-X main.version="+version, "-o", dir+"/", "./cmd/berth", "./cmd/berth-init")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "berth")
}

// A newer berth, installed elsewhere, takes up what an older one has launched: the init
// processes stay those of the older one.
func TestANewerAgentTakesOver(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	agent := startAgent(t, b)
	o := newOperator(t, b, true)
	version := func() string {
		return o.answer(&v1.Call{Type: v1.Call_GET_VERSION.Enum()}).GetGetVersion().GetVersionInfo().GetVersion()
	}
	older := version()
	cat := launchOf(rootID("cat"), image, script("cat; exit 7"))
	cat.LaunchContainer.Interactive = proto.Bool(true)
	o.expect(cat, 200, "")
	if code, text := o.input(rootID("cat"), typed("before\n")); code != 200 {
		t.Fatalf("input: %d %q", code, text)
	}
	o.expect(&v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{ContainerId: childID("cat", "sub"), Command: script("sleep 1000")}}, 200, "")
	o.expect(launchOf(rootID("ended"), image, script("exit 3")), 200, "")
	o.answer(waitOf(rootID("ended")))
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)

	b.Path = buildVersion(t, "newer")
	agent = startAgent(t, b)
	if got := version(); got != "newer" || got == older {
		t.Errorf("the agent is %q, and was %q", got, older)
	}
	if ended := o.answer(waitOf(rootID("ended"))); ended.GetWaitContainer().GetExitStatus() != 3<<8 {
		t.Errorf("what had ended: %v", ended)
	}
	processes := o.answer(&v1.Call{Type: v1.Call_GET_PROCESSES.Enum(), GetProcesses: &v1.Call_GetProcesses{ContainerId: rootID("cat")}})
	if len(processes.GetGetProcesses().GetProcesses()) == 0 {
		t.Errorf("of what runs on: %v", processes)
	}
	o.expect(&v1.Call{Type: v1.Call_UPDATE_CONTAINER.Enum(), UpdateContainer: &v1.Call_UpdateContainer{ContainerId: rootID("cat"), Limits: map[string]*v1.Value_Scalar{"mem": {Value: proto.Float64(64)}}}}, 200, "")
	session := &v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(), LaunchNestedContainerSession: &v1.Call_LaunchNestedContainerSession{ContainerId: childID("cat", "look"), Command: script("echo new in old")}}
	if stdout, stderr := o.output(session); stdout != "new in old\n" || stderr != "" {
		t.Errorf("a session in it says %q, %q", stdout, stderr)
	}
	o.expect(&v1.Call{Type: v1.Call_KILL_NESTED_CONTAINER.Enum(), KillNestedContainer: &v1.Call_KillNestedContainer{ContainerId: childID("cat", "sub"), Signal: proto.Int32(9)}}, 200, "")
	if ended := o.answer(waitOf(childID("cat", "sub"))); ended.GetWaitContainer().GetExitStatus() != 9 {
		t.Errorf("what was nested: %v", ended)
	}
	if code, text := o.input(rootID("cat"), typed("after\n"), typed("")); code != 200 {
		t.Errorf("input: %d %q", code, text)
	}
	output := &v1.Call{Type: v1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &v1.Call_AttachContainerOutput{ContainerId: rootID("cat"), FromBeginning: proto.Bool(true)}}
	if stdout, _ := o.output(output); stdout != "before\nafter\n" {
		t.Errorf("it said %q", stdout)
	}
	if ended := o.answer(waitOf(rootID("cat"))); ended.GetWaitContainer().GetExitStatus() != 7<<8 {
		t.Errorf("what ran on: %v", ended)
	}
	for _, id := range []string{"cat", "ended"} {
		o.expect(removeOf(rootID(id)), 200, "")
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}

// An older berth does not look after what a newer one has recorded: it would miss something.
func TestAnAgentRefusesRecordsOfANewerOne(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	if err := os.MkdirAll(b.RuntimeDir, 0o700); err != nil {
		t.Fatal(err)
	}
	format := state.Layout{Runtime: b.RuntimeDir}.Format()
	if err := os.WriteFile(format, []byte("1000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := b.Start("agent")
	expect(t, p.Wait(), 125, "the records of containers are of a newer berth", "have format 1000", "use the newer berth")
	if _, log := p.Output(); strings.Contains(log, "the agent is ready") {
		t.Errorf("it says that it is ready: %s", log)
	}
	if text, err := os.ReadFile(format); err != nil || string(text) != "1000\n" {
		t.Errorf("the format is %q now, %v", text, err)
	}
}
