package isolator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// images are the columns of the truth table: entrypoint and command of an image.
var images = []struct {
	name            string
	entrypoint, cmd []string
}{
	{"E=0 C=0", nil, nil},
	{"E=0 C=1", nil, []string{"C0", "C1"}},
	{"E=1 C=0", []string{"E0", "E1"}, nil},
	{"E=1 C=1", []string{"E0", "E1"}, []string{"C0", "C1"}},
}

// show prints a command as "path; argv...".
func show(c *isolator.Command, err error) string {
	switch {
	case errors.Is(err, container.ErrInvalid):
		return "error"
	case err != nil:
		return fmt.Sprintf("error of no class: %v", err)
	}
	return c.Path + "; " + strings.Join(c.Args, " ")
}

func commandInfo(shell *bool, value string, argv ...string) *v1.CommandInfo {
	c := &v1.CommandInfo{Shell: shell, Arguments: argv}
	if value != "" {
		c.Value = proto.String(value)
	}
	return c
}

// The rows are those of the table of docker/runtime in Mesos, by the names that they have
// there: shell, value, arguments. With a column less it is that of appc/runtime, whose
// exec stands for C. Below are the ways to say the same with other messages.
func TestCommandInfoFollowsTheTruthTable(t *testing.T) {
	no, yes := proto.Bool(false), proto.Bool(true)
	rows := []struct {
		name    string
		command *v1.CommandInfo
		want    [4]string // by column
	}{
		{"0 0 0", commandInfo(no, ""), [4]string{"error", "C0; C0 C1", "E0; E0 E1", "E0; E0 E1 C0 C1"}},
		{"0 0 1", commandInfo(no, "", "a", "b"), [4]string{"error", "C0; C0 a b", "E0; E0 E1 a b", "E0; E0 E1 a b"}},
		{"0 1 0", commandInfo(no, "v"), [4]string{"v; v", "v; v", "v; v", "v; v"}},
		{"0 1 1", commandInfo(no, "v", "a", "b"), [4]string{"v; a b", "v; a b", "v; a b", "v; a b"}},
		{"1 0 0", commandInfo(yes, ""), [4]string{"error", "error", "error", "error"}},
		{"1 0 1", commandInfo(yes, "", "a"), [4]string{"error", "error", "error", "error"}},
		{"1 1 0", commandInfo(yes, "v w"), [4]string{"sh; sh -c v w", "sh; sh -c v w", "sh; sh -c v w", "sh; sh -c v w"}},
		{"1 1 1", commandInfo(yes, "v w", "a"), [4]string{"sh; sh -c v w", "sh; sh -c v w", "sh; sh -c v w", "sh; sh -c v w"}},
		{"shell by default, value", commandInfo(nil, "v"), [4]string{"sh; sh -c v", "sh; sh -c v", "sh; sh -c v", "sh; sh -c v"}},
		{"shell by default, arguments", commandInfo(nil, "", "a"), [4]string{"error", "error", "error", "error"}},
		{"shell by default, empty value", &v1.CommandInfo{Value: proto.String("")}, [4]string{"error", "error", "error", "error"}},
		{"no shell, empty value", &v1.CommandInfo{Shell: no, Value: proto.String("")}, [4]string{"error", "C0; C0 C1", "E0; E0 E1", "E0; E0 E1 C0 C1"}},
		{"no shell, empty value, arguments", &v1.CommandInfo{Shell: no, Value: proto.String(""), Arguments: []string{"a"}},
			[4]string{"error", "C0; C0 a", "E0; E0 E1 a", "E0; E0 E1 a"}},
		{"says nothing", &v1.CommandInfo{}, [4]string{"error", "C0; C0 C1", "E0; E0 E1", "E0; E0 E1 C0 C1"}},
		{"other fields only", &v1.CommandInfo{User: proto.String("u"), Environment: &v1.Environment{}}, [4]string{"error", "C0; C0 C1", "E0; E0 E1", "E0; E0 E1 C0 C1"}},
		{"none", nil, [4]string{"error", "C0; C0 C1", "E0; E0 E1", "E0; E0 E1 C0 C1"}},
	}
	for _, row := range rows {
		for column, image := range images {
			t.Run(row.name+"/"+image.name, func(t *testing.T) {
				config := &v1.ContainerConfig{CommandInfo: row.command}
				if got := show(isolator.ResolveCommand(config, image.entrypoint, image.cmd)); got != row.want[column] {
					t.Errorf("executes %q, the table says %q", got, row.want[column])
				}
			})
		}
	}
}

func TestArgumentsOfACommandLineFollowDockersRule(t *testing.T) {
	rows := []struct {
		name       string
		entrypoint *string
		args       []string
		want       [4]string
	}{
		{"arguments", nil, []string{"a", "b"}, [4]string{"a; a b", "a; a b", "E0; E0 E1 a b", "E0; E0 E1 a b"}},
		{"entrypoint", proto.String("P"), nil, [4]string{"P; P", "P; P", "P; P", "P; P"}},
		{"entrypoint and arguments", proto.String("P"), []string{"a", "b"}, [4]string{"P; P a b", "P; P a b", "P; P a b", "P; P a b"}},
		{"no entrypoint", proto.String(""), nil, [4]string{"error", "error", "error", "error"}},
		{"no entrypoint but arguments", proto.String(""), []string{"a", "b"}, [4]string{"a; a b", "a; a b", "a; a b", "a; a b"}},
		{"empty first argument", nil, []string{"", "b"}, [4]string{"error", "error", "E0; E0 E1  b", "E0; E0 E1  b"}},
	}
	for _, row := range rows {
		for column, image := range images {
			t.Run(row.name+"/"+image.name, func(t *testing.T) {
				config := &v1.ContainerConfig{Entrypoint: row.entrypoint, ImageArguments: row.args}
				if got := show(isolator.ResolveCommand(config, image.entrypoint, image.cmd)); got != row.want[column] {
					t.Errorf("executes %q, Docker's rule says %q", got, row.want[column])
				}
			})
		}
	}
}

func TestCommandInfoWinsOverArguments(t *testing.T) {
	config := &v1.ContainerConfig{CommandInfo: commandInfo(proto.Bool(false), "v"), ImageArguments: []string{"a"}}
	if got := show(isolator.ResolveCommand(config, []string{"E"}, []string{"C"})); got != "v; v" {
		t.Errorf("executes %q", got)
	}
}

// What is resolved must not share memory with the image's configuration, which stores
// keep.
func TestResolvingLeavesTheImageAlone(t *testing.T) {
	entrypoint := make([]string, 1, 8)
	entrypoint[0] = "E"
	first, err := isolator.ResolveCommand(&v1.ContainerConfig{ImageArguments: []string{"one"}}, entrypoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := isolator.ResolveCommand(&v1.ContainerConfig{ImageArguments: []string{"two"}}, entrypoint, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"E", "one"}, first.Args); diff != "" {
		t.Error(diff)
	}
}
