package runtime

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/image"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

var config = &image.Config{Run: image.RunConfig{
	User: "app", Env: []string{"A=1", "not a variable", "B=2"}, Entrypoint: []string{"E"}, Cmd: []string{"C"}, WorkingDir: "/srv", StopSignal: "QUIT",
}}

// of makes a request one for an image of a type.
func of(kind v1.Image_Type, request *v1.ContainerConfig) *v1.ContainerConfig {
	request.ContainerInfo = &v1.ContainerInfo{Mesos: &v1.ContainerInfo_MesosInfo{Image: &v1.Image{Type: kind.Enum()}}}
	return request
}

// each runs a test for both isolators.
func each(t *testing.T, test func(*testing.T, v1.Image_Type)) {
	for _, kind := range []v1.Image_Type{v1.Image_DOCKER, v1.Image_OCI} {
		t.Run(kind.String(), func(t *testing.T) { test(t, kind) })
	}
}

func TestConformance(t *testing.T) { each(t, testConformance) }

func testConformance(t *testing.T, kind v1.Image_Type) {
	isolatortest.Run(t, New(kind), isolatortest.Requests{
		Good:  of(kind, &v1.ContainerConfig{}),
		Image: config,
		Bad: map[string]*v1.ContainerConfig{
			"a shell without a command": of(kind, &v1.ContainerConfig{CommandInfo: &v1.CommandInfo{Shell: proto.Bool(true)}}),
			"nothing to execute":        of(kind, &v1.ContainerConfig{Entrypoint: proto.String("")}),
		},
	})
}

func TestPrepare(t *testing.T) { each(t, testPrepare) }

func testPrepare(t *testing.T, kind v1.Image_Type) {
	request := of(kind, &v1.ContainerConfig{ImageArguments: []string{"a"}})
	got, err := New(kind).Prepare(t.Context(), &isolator.Container{Config: request, Image: config})
	want := &isolator.LaunchInfo{Command: &isolator.Command{Path: "E", Args: []string{"E", "a"}}, Env: []string{"A=1", "B=2"},
		User: "app", WorkingDir: "/srv", StopSignal: 3}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got, err := New(kind).Prepare(t.Context(), &isolator.Container{Config: request}); got != nil || err != nil {
		t.Errorf("without an image: %+v, %v, want nothing", got, err)
	}
	for _, other := range []v1.Image_Type{v1.Image_APPC, v1.Image_DOCKER, v1.Image_OCI} {
		if other == kind {
			continue
		}
		if got, err := New(kind).Prepare(t.Context(), &isolator.Container{Config: of(other, &v1.ContainerConfig{}), Image: config}); got != nil || err != nil {
			t.Errorf("for an image of type %s: %+v, %v, want nothing", other, got, err)
		}
	}
}
