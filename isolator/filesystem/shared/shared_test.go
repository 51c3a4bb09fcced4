package shared

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
)

func config(sandbox string, volumes ...*v1.Volume) *v1.ContainerConfig {
	return &v1.ContainerConfig{Directory: &sandbox, ContainerInfo: &v1.ContainerInfo{Volumes: volumes}}
}

func volume(path, at string) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: v1.Volume_RW.Enum(), HostPath: &path}
}

func TestConformance(t *testing.T) {
	image := config("/work/c")
	image.Rootfs = proto.String("/rootfs")
	readOnly := config("/work/c")
	readOnly.ReadOnlyRootfs = proto.Bool(true)
	isolatortest.Run(t, New(), isolatortest.Requests{
		Good: config(t.TempDir(), volume("tmp", "/tmp"), volume("/etc", "/mnt")), HostOnly: true,
		Bad: map[string]*v1.ContainerConfig{
			"a root filesystem":               image,
			"a read-only root":                readOnly,
			"nothing to copy from":            config("/work/c", volume("tmp", "/no/such/place")),
			"a file to copy from":             config("/work/c", volume("tmp", "/etc/passwd")),
			"a relative place":                config("/work/c", volume("tmp", "tmp")),
			"a source that climbs":            config("/work/c", volume("../tmp", "/tmp")),
			"a volume of no source":           config("/work/c", &v1.Volume{ContainerPath: proto.String("/tmp"), Mode: v1.Volume_RW.Enum()}),
			"a place below one that is there": config("/work/c", volume("tmp", "/etc/passwd/x")),
		},
	})
}

func TestTheDirectoryThatIsMissingIsNamed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := New().Prepare(t.Context(), &isolator.Container{Config: config("/work/c", volume("mine", missing))})
	if err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "must exist") {
		t.Error(err)
	}
	// An absolute host_path is copied from nowhere.
	if _, err := New().Prepare(t.Context(), &isolator.Container{Config: config("/work/c", volume(os.TempDir(), "mine"))}); err != nil {
		t.Error(err)
	}
}

func TestPrepare(t *testing.T) {
	got, err := New().Prepare(t.Context(), &isolator.Container{Config: config("/work/c", volume("tmp", "/tmp"))})
	want := &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.Mount}, WorkingDir: "/work/c", Env: []string{"MESOS_SANDBOX=/work/c"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}
