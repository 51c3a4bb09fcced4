package user

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
)

func asking(rootfs string) *v1.ContainerConfig {
	c := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{LinuxInfo: &v1.LinuxInfo{UserNamespace: &v1.UserNamespaceInfo{}}}}
	if rootfs != "" {
		c.Rootfs = &rootfs
	}
	return c
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(), isolatortest.Requests{
		Good: asking("/rootfs"),
		Bad:  map[string]*v1.ContainerConfig{"no image": asking("")},
	})
}

func TestPrepare(t *testing.T) {
	got, err := New().Prepare(t.Context(), &isolator.Container{Config: asking("/rootfs")})
	if diff := cmp.Diff(&isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.User}}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got, err := New().Prepare(t.Context(), &isolator.Container{Config: &v1.ContainerConfig{Rootfs: proto.String("/rootfs")}}); got != nil || err != nil {
		t.Errorf("without the request: %+v, %v", got, err)
	}
}

// A nested container has what its parent has, asked for or not.
func TestPrepareNested(t *testing.T) {
	mapped, plain := &isolator.Container{IDs: ids(100000, 65536)}, &isolator.Container{}
	for _, config := range []*v1.ContainerConfig{asking("/rootfs"), {Rootfs: proto.String("/rootfs")}} {
		got, err := New().Prepare(t.Context(), &isolator.Container{Parent: mapped, Config: config})
		if diff := cmp.Diff(&isolator.LaunchInfo{Enter: []launcher.Namespace{launcher.User}}, got); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
	if _, err := New().Prepare(t.Context(), &isolator.Container{Parent: mapped, Config: &v1.ContainerConfig{}}); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("without an image: %v", err)
	}
	if got, err := New().Prepare(t.Context(), &isolator.Container{Parent: plain, Config: &v1.ContainerConfig{}}); got != nil || err != nil {
		t.Errorf("in one without a user namespace: %+v, %v", got, err)
	}
}

// ranges returns those of a host with the files of the directory etc.
func ranges(t *testing.T, files map[string]string) *Ranges {
	t.Helper()
	r := &Ranges{Etc: t.TempDir()}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(r.Etc, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func ids(start, size uint32) container.IDRange { return container.IDRange{Start: start, Size: size} }

func TestAFreeRange(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		taken []container.IDRange
		want  container.IDRange
		class error
		says  string
	}{
		"the first of podman's": {map[string]string{"subuid": "alice:100000:65536\ncontainers:200000:200000\n", "subgid": "containers:200000:200000\n"}, nil, ids(200000, Size), nil, ""},
		"berth's own go before them": {map[string]string{"subuid": "containers:200000:65536\nberth:500000:65536\n", "subgid": "berth:500000:65536\ncontainers:200000:65536\n"},
			nil, ids(500000, Size), nil, ""},
		"the next, when one is taken": {map[string]string{"subuid": "berth:200000:131072\n", "subgid": "berth:200000:131072\n"}, []container.IDRange{ids(200000, Size)}, ids(265536, Size), nil, ""},
		"what overlaps is taken":      {map[string]string{"subuid": "berth:200000:196608\n", "subgid": "berth:200000:196608\n"}, []container.IDRange{ids(230000, 60000)}, ids(331072, Size), nil, ""},
		"of a second line":            {map[string]string{"subuid": "berth:200000:65536\nberth:900000:65536\n", "subgid": "berth:100000:1000000\n"}, []container.IDRange{ids(200000, Size)}, ids(900000, Size), nil, ""},
		"what both files have":        {map[string]string{"subuid": "berth:200000:100000\n", "subgid": "berth:210000:100000\n"}, nil, ids(210000, Size), nil, ""},
		"all are taken":               {map[string]string{"subuid": "berth:200000:131071\n", "subgid": "berth:200000:131071\n"}, []container.IDRange{ids(200000, Size)}, ids(0, 0), container.ErrUnavailable, "--userns_range"},
		"too few for one":             {map[string]string{"subuid": "berth:200000:1000\n", "subgid": "berth:200000:1000\n"}, nil, ids(0, 0), container.ErrUnavailable, "65536"},
		"nothing in common":           {map[string]string{"subuid": "berth:200000:65536\n", "subgid": "berth:300000:65536\n"}, nil, ids(0, 0), container.ErrFailedPrecondition, "subgid"},
		"none for containers":         {map[string]string{"subuid": "alice:100000:65536\n", "subgid": "alice:100000:65536\n"}, nil, ids(0, 0), container.ErrFailedPrecondition, "neither berth nor containers"},
		"no files":                    {nil, nil, ids(0, 0), container.ErrFailedPrecondition, "add a line"},
		"a line that is none":         {map[string]string{"subuid": "berth:many\n"}, nil, ids(0, 0), container.ErrInvalid, "subuid of berth"},
	} {
		got, err := ranges(t, c.files).Choose(&v1.UserNamespaceInfo{}, c.taken)
		if got != c.want || !errors.Is(err, c.class) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	r := ranges(t, nil)
	r.Pool = ids(700000, 3*Size)
	if got, err := r.Choose(&v1.UserNamespaceInfo{}, nil); got != ids(700000, Size) || err != nil || r.Check() != nil {
		t.Errorf("of a pool: %v, %v", got, err)
	}
}

func TestARangeThatIsAskedFor(t *testing.T) {
	files := map[string]string{"passwd": "root:x:0:0::/:\nlarge:x:150000:1::/:\n", "group": "root:x:0:\nmany:x:300001:\nbad:x:y:\nshort\n"}
	for text, class := range map[string]error{
		"200000:65536": nil, "65536:65536": nil, "4294901759:65536": nil, "400000:1000000": nil,
		"4294901760:65536":  container.ErrInvalid, // with the id that is none
		"0:65536":           container.ErrInvalid,
		"65535:65536":       container.ErrInvalid,
		"200000:65535":      container.ErrInvalid,
		"100000:65536":      container.ErrInvalid, // a user
		"300000:65536":      container.ErrInvalid, // a group
		"500000:4294967295": container.ErrInvalid,
	} {
		want, err := ParseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		asked := &v1.UserNamespaceInfo{Range: &v1.UserNamespaceInfo_Range{Start: &want.Start, Size: &want.Size}}
		got, err := ranges(t, files).Choose(asked, nil)
		if !errors.Is(err, class) || err == nil && got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if _, err := ranges(t, files).Choose(asked, []container.IDRange{ids(want.Start+1, 1)}); class == nil && !errors.Is(err, container.ErrExists) {
			t.Errorf("%s, of which one is taken: %v", text, err)
		}
	}
}

func TestParseRange(t *testing.T) {
	for _, text := range []string{"", "5", "5:", ":5", "a:b", "-1:5", "5:0", "1:2:3", "4294967296:1", "1:4294967296"} {
		if got, err := ParseRange(text); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
