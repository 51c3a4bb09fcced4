//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
)

// What happens is told to who has subscribed, in both encodings, and is one line in the log,
// as text and as JSON.
func TestWhatHappensIsToldAndLogged(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	img := &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String(image)}}
	for format, asJSON := range map[string]bool{"json": true, "text": false} {
		t.Run(format, func(t *testing.T) {
			b := testrig.Berth(t)
			agent := startAgent(t, b, "--log_format="+format)
			o := newOperator(t, b, asJSON)
			events, records := o.stream(&v1.Call{Type: v1.Call_SUBSCRIBE_EVENTS.Enum()})
			defer events.Close()
			heard := func() *v1.Event {
				t.Helper()
				for {
					record, err := records.Next()
					if err != nil {
						t.Fatal(err)
					}
					event := &v1.Event{}
					o.decode(record, event)
					if event.GetTime().GetNanoseconds() == 0 {
						t.Errorf("%v has no time", event)
					}
					if event.GetType() != "heartbeat" {
						return event
					}
				}
			}
			expectEvent := func(kind, about string) *v1.Event {
				t.Helper()
				event := heard()
				id := event.GetContainerId()
				of := event.GetImage() + id.GetValue()
				if id.GetParent() != nil {
					of = id.GetParent().GetValue() + "." + of
				}
				if event.GetType() != kind || of != about {
					t.Fatalf("heard of %v; want %s of %s", event, kind, about)
				}
				return event
			}
			o.answer(&v1.Call{Type: v1.Call_PULL_IMAGE.Enum(), PullImage: &v1.Call_PullImage{Image: img}})
			expectEvent("image.pulled", image)
			o.expect(launchOf(rootID("bad"), image, &v1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/no/such/program")}), 400, "")
			if event := expectEvent("container.launch_failed", "bad"); !strings.Contains(event.GetMessage(), "/no/such/program") {
				t.Errorf("why: %v", event)
			}
			o.expect(launchOf(rootID("web"), image, script("sleep 1000")), 200, "")
			expectEvent("container.launched", "web")
			o.expect(&v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{ContainerId: childID("web", "sub"), Command: script("exit 5")}}, 200, "")
			expectEvent("container.launched", "web.sub")
			if event := expectEvent("container.ended", "web.sub"); event.GetTermination().GetExitStatus() != 5<<8 {
				t.Errorf("how: %v", event)
			}
			o.expect(killOf(rootID("web"), nil), 200, "")
			expectEvent("container.ended", "web")
			o.expect(removeOf(rootID("web")), 200, "")
			expectEvent("container.removed", "web")
			o.expect(&v1.Call{Type: v1.Call_PRUNE_IMAGES.Enum()}, 200, "")
			expectEvent("image.removed", image)
			agent.Signal(syscall.SIGTERM)
			expect(t, agent.Wait(), 0)

			_, log := agent.Output()
			for _, want := range []string{"bad launch_failed", "web launched", "web.sub launched", "web.sub ended 5", "web ended 137", "web removed"} {
				if got := count(t, log, asJSON, want); got != 1 {
					t.Errorf("there are %d lines of %q in the log\n%s", got, want, log)
				}
			}
			wantNoContainers(t, b)
		})
	}
}

// count is how many lines of a log are about an event: ID, KIND and the exit code if there
// is one.
func count(t *testing.T, log string, asJSON bool, event string) (n int) {
	t.Helper()
	words := append(strings.Fields(event), "")
	for line := range strings.Lines(log) {
		if !asJSON {
			if strings.Contains(line, `level=INFO msg="container `+words[1]+`" container=`+words[0]+" ") || strings.Contains(line, `level=INFO msg="container `+words[1]+`" container=`+words[0]+"\n") {
				if words[2] == "" || strings.Contains(line, "exit_code="+words[2]) {
					n++
				}
			}
			continue
		}
		var entry struct {
			Level, Msg, Container string
			Time                  string
			ExitCode              *int `json:"exit_code"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time == "" {
			t.Errorf("the line %q: %v", line, err)
		}
		if entry.Level == "INFO" && entry.Msg == "container "+words[1] && entry.Container == words[0] &&
			(words[2] == "" || entry.ExitCode != nil && fmt.Sprint(*entry.ExitCode) == words[2]) {
			n++
		}
	}
	return n
}
