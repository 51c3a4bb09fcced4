package runtime

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/image"
	"berth/image/appc"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

var config = &image.Config{Run: image.RunConfig{
	User: "app", Env: []string{"A=1", "B=2"}, Entrypoint: []string{"E"}, Cmd: []string{"C"}, WorkingDir: "/srv",
}}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(), isolatortest.Requests{
		Image: config,
		Bad: map[string]*v1.ContainerConfig{
			"a shell without a command": {CommandInfo: &v1.CommandInfo{Shell: proto.Bool(true)}},
			"nothing to execute":        {Entrypoint: proto.String("")},
		},
	})
}

func TestPrepare(t *testing.T) {
	request := &v1.ContainerConfig{ImageArguments: []string{"a"}}
	got, err := New().Prepare(t.Context(), &isolator.Container{Config: request, Image: config})
	want := &isolator.LaunchInfo{Command: &isolator.Command{Path: "E", Args: []string{"E", "a"}}, Env: []string{"A=1", "B=2"}, User: "app", WorkingDir: "/srv"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got, err := New().Prepare(t.Context(), &isolator.Container{Config: request}); got != nil || err != nil {
		t.Errorf("without an image: %+v, %v, want nothing", got, err)
	}
	other := &image.Config{Run: config.Run, Appc: &appc.Manifest{}}
	if got, err := New().Prepare(t.Context(), &isolator.Container{Config: request, Image: other}); got != nil || err != nil {
		t.Errorf("for an Appc image: %+v, %v, want nothing", got, err)
	}
}
