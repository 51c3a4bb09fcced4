//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

func TestImageVolumesOnTheCommandLine(t *testing.T) {
	const (
		ro = v1.Volume_RO
		rw = v1.Volume_RW
	)
	here := t.TempDir() // where relative paths are
	t.Chdir(here)
	for value, want := range map[string]struct {
		image, at, part string
		mode            v1.Volume_Mode
	}{
		"busybox:/v":                            {"docker.io/library/busybox:latest", "/v", "", rw},
		"busybox:1:/v:ro":                       {"docker.io/library/busybox:1", "/v", "", ro},
		"busybox:ro:/v:rw":                      {"docker.io/library/busybox:ro", "/v", "", rw},
		"localhost:5000/a/b:/v":                 {"localhost:5000/a/b:latest", "/v", "", rw},
		"localhost:5000/a/b:1:/v/w:ro":          {"localhost:5000/a/b:1", "/v/w", "", ro},
		"docker://localhost:5000/a:/v":          {"localhost:5000/a:latest", "/v", "", rw},
		"docker:/v":                             {"docker.io/library/docker:latest", "/v", "", rw},
		"docker-archive:/a/b.tar:/v:ro":         {"docker-archive:/a/b.tar", "/v", "", ro},
		"docker-archive:b.tar:/v":               {"docker-archive:/here/b.tar", "/v", "", rw},
		"docker-archive:/a/b.tar:img:1:/v":      {"docker-archive:/a/b.tar:docker.io/library/img:1", "/v", "", rw},
		"oci:/layout:latest:/v":                 {"oci:/layout:latest", "/v", "", rw},
		"busybox:/v:ro:subpath=a/b":             {"docker.io/library/busybox:latest", "/v", "a/b", ro},
		"busybox:/v:subpath=/a:ro":              {"docker.io/library/busybox:latest", "/v", "/a", ro},
		"busybox:/v:subpath=a=b":                {"docker.io/library/busybox:latest", "/v", "a=b", rw},
		"busybox@sha256:" + zeros64 + ":/v/:ro": {"docker.io/library/busybox@sha256:" + zeros64, "/v/", "", ro},
	} {
		v, err := imageVolume(value)
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		name := strings.Replace(v.GetImage().GetDocker().GetName()+v.GetImage().GetOci().GetName(), here, "/here", 1)
		if name != want.image || v.GetContainerPath() != want.at || v.GetImagePath() != want.part || v.GetMode() != want.mode {
			t.Errorf("%s: %v", value, v)
		}
	}
}

const zeros64 = "0000000000000000000000000000000000000000000000000000000000000000"

func TestImageVolumesThatAreNone(t *testing.T) {
	for value, words := range map[string]string{
		"":                               "IMAGE:DST",
		"busybox":                        "IMAGE:DST",
		"busybox:ro":                     "IMAGE:DST",
		"busybox:1":                      "IMAGE:DST",
		"busybox:relative":               "IMAGE:DST",
		"busybox:1:relative/path":        "IMAGE:DST",
		"localhost:5000/busybox":         "IMAGE:DST",
		"localhost:5000/busybox:1":       "IMAGE:DST",
		"docker://busybox":               "IMAGE:DST",
		"docker-archive:/a/b.tar":        "IMAGE:DST",
		"docker-archive:/a/b.tar:ro":     "IMAGE:DST",
		"oci:/layout":                    "IMAGE:DST",
		":/v":                            "IMAGE:DST",
		"busybox:":                       "IMAGE:DST",
		"busybox:/":                      "below /",
		"busybox:/.":                     "below /",
		"busybox:/a/../b":                `".."`,
		"busybox:/v:r":                   `unknown option "r"`,
		"busybox:/v:RO":                  `unknown option "RO"`,
		"busybox:/v:ro,z":                `unknown option "ro,z"`,
		"busybox:/v:":                    `unknown option ""`,
		"busybox:/v:w:ro":                `unknown option "w"`,
		"busybox:/v:ro:ro":               "twice",
		"busybox:/v:ro:rw":               "twice",
		"busybox:/v:subpath=a:subpath=b": "twice",
		"busybox:/v:subpath=":            "subpath",
		"busybox:/v:subpath=../a":        "subpath",
		"busybox:/v:subpath=a/../../b":   "subpath",
		"UPPER/case:/v":                  "UPPER/case",
		"busybox:1:2:/v":                 "busybox:1:2",
	} {
		v, err := imageVolume(value)
		if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, error %v; want one of class ErrInvalid that says %s", value, v, err, words)
		}
	}
}

func FuzzImageVolume(f *testing.F) {
	for _, seed := range []string{"busybox:1:/v:ro", "docker-archive:/a/b.tar:img:1:/v", "localhost:5000/a:/v:subpath=a/b:ro", "a:/b:/c", ":/:/", "oci:/layout:latest:/v"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.Contains(value, "\x00") {
			t.Skip("no argument of a program has one")
		}
		v, err := imageVolume(value)
		if err != nil {
			if !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		config := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Volumes: []*v1.Volume{v}}}
		if err := isolator.CheckVolumes(config); err != nil || !strings.HasPrefix(v.GetContainerPath(), "/") {
			t.Fatalf("%q is %v: %v", value, v, err)
		}
	})
}
