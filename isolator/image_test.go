package isolator_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/isolator"
)

func TestRunImage(t *testing.T) {
	run := image.RunConfig{
		User: "app:wheel", Env: []string{"A=1", "NAME", "", "=x", "B==", "C="}, Entrypoint: []string{"E"}, Cmd: []string{"C"},
		WorkingDir: "srv", StopSignal: "SIGRTMIN+3", Labels: map[string]string{"a": "b"},
	}
	got, err := isolator.RunImage(&v1.ContainerConfig{ImageArguments: []string{"x"}}, run)
	want := &isolator.LaunchInfo{Command: &isolator.Command{Path: "E", Args: []string{"E", "x"}}, Env: []string{"A=1", "B==", "C="},
		User: "app:wheel", WorkingDir: "srv", StopSignal: 37}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if run.Env[1] != "NAME" {
		t.Errorf("the image's environment has become %q", run.Env)
	}
	run.StopSignal = "SIGNOSUCH"
	if got, err := isolator.RunImage(&v1.ContainerConfig{}, run); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), "STOPSIGNAL") {
		t.Errorf("an unknown stop signal: %+v, %v", got, err)
	}
}

func TestAnImageIsForTheIsolatorOfItsType(t *testing.T) {
	of := func(kind *v1.Image_Type) *v1.ContainerConfig {
		return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Mesos: &v1.ContainerInfo_MesosInfo{Image: &v1.Image{Type: kind}}}}
	}
	for kind := range v1.Image_Type_name {
		kind := v1.Image_Type(kind)
		c := &isolator.Container{Config: of(&kind), Image: &image.Config{}}
		for other := range v1.Image_Type_name {
			if got := c.HasImage(v1.Image_Type(other)); got != (v1.Image_Type(other) == kind) {
				t.Errorf("an image of type %s is of type %s: %v", kind, v1.Image_Type(other), got)
			}
		}
		if (&isolator.Container{Config: of(&kind)}).HasImage(kind) {
			t.Errorf("without a root filesystem there is an image of type %s", kind)
		}
	}
	if (&isolator.Container{Config: &v1.ContainerConfig{}}).HasImage(v1.Image_APPC) {
		t.Error("the first type stands for none")
	}
}

// Whatever an image says, and a request beside it: it is refused with a class, or it is a
// command that the kernel can be given.
func FuzzRunImage(f *testing.F) {
	for _, seed := range []string{
		`{"config":{"Entrypoint":["E"],"Cmd":["C"],"Env":["A=1","x"],"User":"app","WorkingDir":"srv","StopSignal":"SIGRTMIN+3"}}`,
		`{"config":{"Entrypoint":[""],"Cmd":["C"]}}`, `{"config":{"Cmd":[],"StopSignal":"RTMAX-31"}}`,
		`{"config":{"User":"12345678901234567890","WorkingDir":"/proc/self/fd/5","Cmd":["x"],"StopSignal":"99"}}`, `{}`, `{"config":null}`,
	} {
		f.Add([]byte(seed), false, false, "", "", "")
		f.Add([]byte(seed), true, true, "echo", "a", "entry")
		f.Add([]byte(seed), true, false, "", "a", "")
	}
	f.Fuzz(func(t *testing.T, body []byte, isCommand, shell bool, value, argument, entrypoint string) {
		config, err := image.ParseConfig(body)
		if err != nil {
			return
		}
		before, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		request := &v1.ContainerConfig{}
		if isCommand {
			request.CommandInfo = &v1.CommandInfo{Shell: proto.Bool(shell), Value: proto.String(value)}
		} else if argument != "" {
			request.ImageArguments = []string{argument}
		}
		if entrypoint != "" {
			request.Entrypoint = proto.String(entrypoint)
		}
		info, err := isolator.RunImage(request, config.Run)
		if after, _ := json.Marshal(config); string(after) != string(before) {
			t.Fatalf("the configuration was %s and is %s", before, after)
		}
		if err != nil {
			if !errors.Is(err, container.ErrInvalid) || info != nil {
				t.Fatalf("%+v beside an error of no class: %v", info, err)
			}
			return
		}
		if info.Command.Path == "" || len(info.Command.Args) == 0 {
			t.Errorf("the command %+v", info.Command)
		}
		if info.StopSignal < 0 || info.StopSignal > 64 {
			t.Errorf("the stop signal %d", info.StopSignal)
		}
		for _, entry := range info.Env {
			if name, _, ok := strings.Cut(entry, "="); !ok || name == "" {
				t.Errorf("%q in the environment", entry)
			}
		}
	})
}
