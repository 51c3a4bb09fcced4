//go:build linux

package e2e

import (
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
)

// The calls that are berth's own, and the one of Mesos that no other test speaks in both ways.
func TestOperatorSpeaksBerthsOwnCalls(t *testing.T) {
	bothWays(t, func(o *operator, b *testrig.Command, image string) {
		events, happened := o.stream(&v1.Call{Type: v1.Call_SUBSCRIBE_EVENTS.Enum()})
		defer events.Close()
		if _, err := happened.Next(); err != nil { // from now on
			o.Fatal(err)
		}
		web := rootID("web")
		o.expect(launchOf(web, image, script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")), 200, "")
		hasSaid(o.T, b, "web", "ready\n")
		record, err := happened.Next()
		if err != nil {
			o.Fatal(err)
		}
		e := &v1.Event{}
		if o.decode(record, e); e.GetType() != "container.launched" || !proto.Equal(e.GetContainerId(), web) {
			o.Errorf("what has happened is %v", e)
		}

		processes := o.answer(&v1.Call{Type: v1.Call_GET_PROCESSES.Enum(), GetProcesses: &v1.Call_GetProcesses{ContainerId: web}}).GetGetProcesses().GetProcesses()
		if len(processes) == 0 || processes[0].GetPid() == 0 {
			o.Errorf("its processes are %v", processes)
		}
		o.expect(&v1.Call{Type: v1.Call_UPDATE_CONTAINER.Enum(), UpdateContainer: &v1.Call_UpdateContainer{
			ContainerId: web, Limits: map[string]*v1.Value_Scalar{"cpus": {Value: proto.Float64(1)}, "mem": {Value: proto.Float64(64)}}}}, 200, "")
		all := &v1.Call{Type: v1.Call_GET_CONTAINERS.Enum(), GetContainers: &v1.Call_GetContainers{ShowStandalone: proto.Bool(true)}}
		if found := o.answer(all).GetGetContainers().GetContainers(); len(found) != 1 || found[0].GetResourceStatistics().GetMemLimitBytes() != 64<<20 {
			o.Errorf("after an update: %v", found)
		}

		child := childID("web", "child")
		o.expect(&v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{
			ContainerId: child, Command: script("sleep 1000")}}, 200, "")
		o.expect(&v1.Call{Type: v1.Call_KILL_NESTED_CONTAINER.Enum(), KillNestedContainer: &v1.Call_KillNestedContainer{ContainerId: child}}, 200, "")
		if ended := o.answer(waitOf(child)).GetWaitContainer(); ended.GetExitStatus() != 9 {
			o.Errorf("the child ended with %v", ended)
		}

		o.expect(&v1.Call{Type: v1.Call_STOP_CONTAINER.Enum(), StopContainer: &v1.Call_StopContainer{ContainerId: web}}, 200, "")
		if ended := o.answer(waitOf(web)).GetWaitContainer(); ended.GetExitStatus() != 9<<8 {
			o.Errorf("it was stopped, and ended with %v", ended)
		}
		o.expect(removeOf(web), 200, "")

		session := launchOf(rootID("here"), image, script("echo out; echo err >&2; exit 7"))
		session.Type, session.LaunchContainer.AutoRemove = v1.Call_LAUNCH_CONTAINER_SESSION.Enum(), proto.Bool(true)
		body, records := o.stream(session)
		defer body.Close()
		var said strings.Builder
		var ended *v1.Response_WaitContainer
		for {
			record, err := records.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				o.Fatal(err)
			}
			m := &v1.ProcessIO{}
			o.decode(record, m)
			said.Write(m.GetData().GetData())
			if m.GetControl().GetType() == v1.ProcessIO_Control_ENDED {
				ended = m.GetControl().GetEnded()
			}
		}
		if text := said.String(); ended.GetExitStatus() != 7<<8 || len(text) != len("out\nerr\n") || !strings.Contains(text, "out\n") {
			o.Errorf("the session said %q and ended with %v", said.String(), ended)
		}
		o.expect(waitOf(rootID("here")), 404, "") // it was removed
	})
}
