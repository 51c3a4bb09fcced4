package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/image/appc"
	"berth/internal/testrig"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func of(app *appc.App) *image.Config { return &image.Config{Appc: &appc.Manifest{App: app}} }

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(), isolatortest.Requests{
		Image: of(&appc.App{Exec: []string{"/bin/app", "-v"}, User: "app", Group: "10", SupplementaryGIDs: []uint32{20}, WorkingDirectory: "/srv",
			Environment: []appc.Variable{{Name: "A", Value: "1"}}}),
		Bad: map[string]*v1.ContainerConfig{
			"a shell without a command": {CommandInfo: &v1.CommandInfo{Shell: proto.Bool(true)}},
			"nothing to execute":        {Entrypoint: proto.String("")},
		},
	})
}

// The truth table of Mesos: sh is CommandInfo.shell.
func TestCommand(t *testing.T) {
	none, exec := []string(nil), []string{"E", "e"}
	shell := func(sh bool, value string, argv ...string) *v1.CommandInfo {
		c := &v1.CommandInfo{Shell: proto.Bool(sh), Arguments: argv}
		if value != "" {
			c.Value = proto.String(value)
		}
		return c
	}
	for _, row := range []struct {
		name    string
		command *v1.CommandInfo
		exec    []string
		want    *isolator.Command // nil: an error
	}{
		{"0 0 0, no exec", shell(false, ""), none, nil},
		{"0 0 0", shell(false, ""), exec, &isolator.Command{Path: "E", Args: []string{"E", "e"}}},
		{"0 0 1, no exec", shell(false, "", "a"), none, nil},
		{"0 0 1", shell(false, "", "a", "b"), exec, &isolator.Command{Path: "E", Args: []string{"E", "a", "b"}}},
		{"0 1 0, no exec", shell(false, "v"), none, &isolator.Command{Path: "v", Args: []string{"v"}}},
		{"0 1 0", shell(false, "v"), exec, &isolator.Command{Path: "v", Args: []string{"v"}}},
		{"0 1 1, no exec", shell(false, "v", "a", "b"), none, &isolator.Command{Path: "v", Args: []string{"a", "b"}}},
		{"0 1 1", shell(false, "v", "a", "b"), exec, &isolator.Command{Path: "v", Args: []string{"a", "b"}}},
		{"1 0 0, no exec", shell(true, ""), none, nil},
		{"1 0 0", shell(true, ""), exec, nil},
		{"1 0 1", shell(true, "", "a"), exec, nil},
		{"1 1 0, no exec", shell(true, "v"), none, &isolator.Command{Path: "sh", Args: []string{"sh", "-c", "v"}}},
		{"1 1 0", shell(true, "v"), exec, &isolator.Command{Path: "sh", Args: []string{"sh", "-c", "v"}}},
		{"1 1 1", shell(true, "v", "a"), exec, &isolator.Command{Path: "sh", Args: []string{"sh", "-c", "v"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			info, err := New().Prepare(t.Context(), &isolator.Container{
				Config: &v1.ContainerConfig{CommandInfo: row.command}, Image: of(&appc.App{Exec: row.exec})})
			if row.want == nil {
				if !errors.Is(err, container.ErrInvalid) {
					t.Errorf("got %+v, %v; want an error of class ErrInvalid", info, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, info.Command); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWithoutAnAppNothingIsApplied(t *testing.T) {
	for name, img := range map[string]*image.Config{
		"no image":       nil,
		"another kind":   {Run: image.RunConfig{Cmd: []string{"x"}}},
		"without an app": of(nil),
	} {
		if info, err := New().Prepare(t.Context(), &isolator.Container{Config: &v1.ContainerConfig{}, Image: img}); info != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
}

func TestArgumentsOfAPersonReplaceExec(t *testing.T) {
	info, err := New().Prepare(t.Context(), &isolator.Container{
		Config: &v1.ContainerConfig{ImageArguments: []string{"x", "y"}}, Image: of(&appc.App{Exec: []string{"E", "e"}})})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&isolator.Command{Path: "x", Args: []string{"x", "y"}}, info.Command); diff != "" {
		t.Error(diff)
	}
}

func TestSupplementaryGroups(t *testing.T) {
	info, err := New().Prepare(t.Context(), &isolator.Container{
		Config: &v1.ContainerConfig{}, Image: of(&appc.App{Exec: []string{"x"}, SupplementaryGIDs: []uint32{20, 30}})})
	if err != nil || !slices.Equal(info.Groups, []uint32{20, 30}) {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestAccount(t *testing.T) {
	testrig.RequireRoot(t)
	root := testrig.TempDir(t)
	owned := filepath.Join(root, "owned")
	if err := errors.Join(os.WriteFile(owned, nil, 0o600), os.Chown(owned, 1234, 5678),
		os.Symlink("/owned", filepath.Join(root, "link")), os.Symlink("/../../../../etc", filepath.Join(root, "out"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user, group, want string
		class             error
	}{
		{"", "", "", nil},
		{"app", "", "app", nil},
		{"app", "wheel", "app:wheel", nil},
		{"1000", "10", "1000:10", nil},
		{"", "10", "0:10", nil},
		{"/owned", "/owned", "1234:5678", nil},
		{"/owned", "10", "1234:10", nil},
		{"app", "/link", "app:5678", nil},
		{"/missing", "", "", container.ErrNotFound},
		{"app", "/missing", "", container.ErrNotFound},
		// Links lead nowhere but inside the image.
		{"/out/passwd", "", "", container.ErrNotFound},
		{"/owned/below", "", "", container.ErrInvalid},
	} {
		info, err := New().Prepare(t.Context(), &isolator.Container{
			Config: &v1.ContainerConfig{Rootfs: proto.String(root)},
			Image:  of(&appc.App{Exec: []string{"x"}, User: c.user, Group: c.group})})
		switch {
		case c.class != nil:
			if !errors.Is(err, c.class) {
				t.Errorf("%q, %q: %+v, %v; want an error of class %v", c.user, c.group, info, err, c.class)
			}
		case err != nil || info.User != c.want:
			t.Errorf("%q, %q: %+v, %v; want %q", c.user, c.group, info, err, c.want)
		}
	}
}
