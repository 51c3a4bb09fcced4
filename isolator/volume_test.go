package isolator_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher/plan"
)

func volume(at string, change ...func(*v1.Volume)) *v1.Volume {
	v := &v1.Volume{ContainerPath: proto.String(at), Mode: v1.Volume_RW.Enum(), HostPath: proto.String("/etc")}
	for _, c := range change {
		c(v)
	}
	return v
}

func with(volumes ...*v1.Volume) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Volumes: volumes}}
}

// sourced is a volume with a source of a type and the members given.
func sourced(kind v1.Volume_Source_Type, members ...func(*v1.Volume_Source)) *v1.Volume {
	return volume("/v", func(v *v1.Volume) {
		v.HostPath, v.Source = nil, &v1.Volume_Source{Type: kind.Enum()}
		for _, set := range members {
			set(v.Source)
		}
	})
}

func hostPath(path string) func(*v1.Volume_Source) {
	return func(s *v1.Volume_Source) { s.HostPath = &v1.Volume_Source_HostPath{Path: &path} }
}

func sandboxPath(path string) func(*v1.Volume_Source) {
	return func(s *v1.Volume_Source) { s.SandboxPath = &v1.Volume_Source_SandboxPath{Path: &path} }
}

func TestVolumesThatMeanNothingAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		volume *v1.Volume
		words  string // empty: it is well
	}{
		"well":                              {volume("/v"), ""},
		"well, relative":                    {volume("a/b..c/..."), ""},
		"no source":                         {volume("/v", func(v *v1.Volume) { v.HostPath = nil }), "one of host_path, image and source"},
		"two sources":                       {volume("/v", func(v *v1.Volume) { v.Image = &v1.Image{} }), "one of host_path, image and source"},
		"no mode":                           {volume("/v", func(v *v1.Volume) { v.Mode = nil }), "mode"},
		"a part of no image":                {volume("/v", func(v *v1.Volume) { v.ImagePath = proto.String("a") }), "image_path"},
		"everything":                        {volume("/"), "container_path"},
		"everything, in other words":        {volume("/./"), "container_path"},
		"the sandbox":                       {volume("./"), "container_path"},
		"nowhere":                           {volume(""), "container_path"},
		"climbs":                            {volume("/a/../b"), `container_path contains ".."`},
		"climbs at the end":                 {volume("a/.."), "container_path"},
		"NUL":                               {volume("/a\x00b"), "container_path contains a NUL"},
		"a source that climbs":              {volume("/v", func(v *v1.Volume) { v.HostPath = proto.String("../a") }), `host_path contains ".."`},
		"an empty source":                   {volume("/v", func(v *v1.Volume) { v.HostPath = proto.String("") }), "host_path is empty"},
		"well, by a source":                 {sourced(v1.Volume_Source_HOST_PATH, hostPath("/etc")), ""},
		"well, in the sandbox":              {sourced(v1.Volume_Source_SANDBOX_PATH, sandboxPath("a/b")), ""},
		"two ways to say a path":            {volume("/v", func(v *v1.Volume) { v.Source = sourced(v1.Volume_Source_HOST_PATH, hostPath("/etc")).Source }), "one of host_path, image and source"},
		"a source without type":             {sourced(v1.Volume_Source_UNKNOWN), "no type"},
		"a member of another type":          {sourced(v1.Volume_Source_SECRET, hostPath("/etc")), "secret is the member"},
		"two members":                       {sourced(v1.Volume_Source_SANDBOX_PATH, sandboxPath("a"), hostPath("/etc")), "sandbox_path is the member"},
		"no member":                         {sourced(v1.Volume_Source_HOST_PATH), "host_path is the member"},
		"a relative path of the host":       {sourced(v1.Volume_Source_HOST_PATH, hostPath("etc")), "is absolute"},
		"a path of the host that climbs":    {sourced(v1.Volume_Source_HOST_PATH, hostPath("/srv/../etc")), `path contains ".."`},
		"a path of the sandbox that climbs": {sourced(v1.Volume_Source_SANDBOX_PATH, sandboxPath("a/../../b")), `path contains ".."`},
		"an absolute path of the sandbox":   {sourced(v1.Volume_Source_SANDBOX_PATH, sandboxPath("/etc")), "relative"},
		"a part that climbs": {volume("/v", func(v *v1.Volume) {
			v.HostPath, v.Image, v.ImagePath = nil, &v1.Image{}, proto.String("a/../../b")
		}), `image_path contains ".."`},
	} {
		err := isolator.CheckVolumes(with(volume("/other"), test.volume))
		switch {
		case test.words == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.words != "" && (!errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), test.words)):
			t.Errorf("%s: error %v, want one of class ErrInvalid that says %q", name, err, test.words)
		}
	}
	debug := with(volume("/v"))
	debug.ContainerClass = v1.ContainerClass_DEBUG.Enum()
	if err := isolator.CheckVolumes(debug); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("of a DEBUG container: %v", err)
	}
}

func TestThePlaceOfAVolume(t *testing.T) {
	host := t.TempDir()
	for name, test := range map[string]struct {
		rootfs, at, want string
	}{
		"absolute, with an image":    {"/rootfs", "/no/such//place/", "/no/such/place"},
		"relative, with an image":    {"/rootfs", "a/b", "/box/a/b"},
		"relative, on the host":      {"", "a/b", "/work/c/a/b"},
		"absolute, on the host":      {"", host, host},
		"absolute, missing on host":  {"", filepath.Join(host, "missing"), ""},
		"over the sandbox":           {"", "/work", ""},
		"beside it":                  {"", "/wor", ""}, // missing
		"its name, with an image":    {"/rootfs", "/work", "/work"},
		"the sandbox, with an image": {"/rootfs", "/box", "/box"},
	} {
		config := &v1.ContainerConfig{Directory: proto.String("/work/c")}
		if test.rootfs != "" {
			config.Rootfs = proto.String(test.rootfs)
		}
		for mode, flags := range map[v1.Volume_Mode]plan.Flags{v1.Volume_RW: 0, v1.Volume_RO: plan.ReadOnly} {
			m, err := isolator.VolumeMount(config, "/box", volume(test.at, func(v *v1.Volume) { v.Mode = mode.Enum() }))
			switch {
			case test.want == "" && !errors.Is(err, container.ErrInvalid):
				t.Errorf("%s: %+v, %v, want an error of class ErrInvalid", name, m, err)
			case test.want != "" && (err != nil || m.Target != test.want || m.Flags != flags):
				t.Errorf("%s: %+v, %v, want %s with flags %b", name, m, err, test.want, flags)
			}
		}
	}
}

func TestOuterVolumesComeFirst(t *testing.T) {
	got, err := isolator.Merge([]*isolator.LaunchInfo{
		{Mounts: []plan.Mount{{Target: "/box"}}, Volumes: []plan.Mount{{Target: "/v/in/deep"}, {Target: "/box/x"}}},
		{Volumes: []plan.Mount{{Target: "/v/in"}, {Target: "/v-other"}}},
		{Volumes: []plan.Mount{{Target: "/v"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range got.Volumes {
		targets = append(targets, m.Target)
	}
	if diff := cmp.Diff([]string{"/box/x", "/v", "/v-other", "/v/in", "/v/in/deep"}, targets); diff != "" {
		t.Error(diff)
	}
}

func TestVolumesThatWouldHideSomethingAreRefused(t *testing.T) {
	needs := &isolator.LaunchInfo{
		Mounts: []plan.Mount{{Target: "/a/mount"}}, Nodes: []plan.Node{{Path: "/b/node"}}, Links: []plan.Link{{Path: "/c/link"}},
		Masked: []string{"/d/masked"}, ReadOnly: []string{"/e/e/readonly"},
	}
	for target, refused := range map[string]bool{
		"/a": true, "/b": true, "/c": true, "/d": true, "/e": true, "/e/e": true,
		"/a/mount": false, "/b/node": false, "/a/mount/in": false, "/a/moun": false, "/f": false, "/aa": false,
	} {
		_, err := isolator.Merge([]*isolator.LaunchInfo{{Volumes: []plan.Mount{{Target: target}}}, needs})
		if refused != errors.Is(err, container.ErrInvalid) {
			t.Errorf("a volume at %s: %v", target, err)
		}
	}
	one := &isolator.LaunchInfo{Volumes: []plan.Mount{{Target: "/v"}}}
	if _, err := isolator.Merge([]*isolator.LaunchInfo{one, one}); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("two in one place: %v", err)
	}
}

func TestAVolumeThatNobodyMountsIsRefused(t *testing.T) {
	secret := volume("/s", func(v *v1.Volume) {
		v.HostPath, v.Source = nil, &v1.Volume_Source{Type: v1.Volume_Source_SECRET.Enum()}
	})
	config := with(volume("v"), secret)
	config.Rootfs = proto.String("/rootfs")
	mounted := []plan.Mount{{Target: "/box/v"}}
	if err := isolator.CheckMounted(config, "/box", mounted); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "/s") || !strings.Contains(err.Error(), "SECRET") {
		t.Errorf("error %v", err)
	}
	if err := isolator.CheckMounted(config, "/box", append(mounted, plan.Mount{Target: "/s"})); err != nil {
		t.Error(err)
	}
}

func TestAPersistentVolumeThatNobodyMountsIsRefused(t *testing.T) {
	config := &v1.ContainerConfig{Rootfs: proto.String("/rootfs"), Resources: []*v1.Resource{{Name: proto.String("disk"), Role: proto.String("db"),
		Disk: &v1.Resource_DiskInfo{Persistence: &v1.Resource_DiskInfo_Persistence{Id: proto.String("data")},
			Volume: &v1.Volume{ContainerPath: proto.String("data"), Mode: v1.Volume_RW.Enum()}}}}}
	if err := isolator.CheckMounted(config, "/box", nil); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "persistent") {
		t.Error(err)
	}
	if err := isolator.CheckMounted(config, "/box", []plan.Mount{{Target: "/box/data"}}); err != nil {
		t.Error(err)
	}
}

// What is there, of a file or in another mode, is not touched.
func TestMakeInSandbox(t *testing.T) {
	sandbox := t.TempDir()
	made := isolator.Attributes{Mode: 0o777 | fs.ModeSticky, UID: os.Getuid(), GID: os.Getgid()}
	if err := errors.Join(os.Mkdir(sandbox+"/there", 0o700), os.WriteFile(sandbox+"/file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"new": made.Mode, "a/b": made.Mode, "there": 0o700, "file": 0o600} {
		if err := isolator.MakeInSandbox(sandbox, name, made); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(sandbox, name)); err != nil || info.Mode()&^fs.ModeDir != want {
			t.Errorf("%s: %v, %v, want %v", name, info, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(sandbox, "a")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("what it lies in: %v, %v", info, err)
	}
}
