//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
)

func TestHostVolumes(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]struct {
		source, destination string
		mode                v1.Volume_Mode
	}{
		"/srv/data:/data":    {"/srv/data", "/data", v1.Volume_RW},
		"/srv/data:/data:rw": {"/srv/data", "/data", v1.Volume_RW},
		"/srv/data:/data:ro": {"/srv/data", "/data", v1.Volume_RO},
		"./conf:/etc/app:ro": {filepath.Join(here, "conf"), "/etc/app", v1.Volume_RO},
		"..:/up":             {filepath.Dir(here), "/up", v1.Volume_RW},
		"/:/host:ro":         {"/", "/host", v1.Volume_RO},
	} {
		got, err := hostVolume(value)
		if err != nil || got.GetHostPath() != want.source || got.GetContainerPath() != want.destination || got.GetMode() != want.mode {
			t.Errorf("%s: %v, %v", value, got, err)
		}
	}
	for value, words := range map[string]string{
		"": "SRC:DST", "/a": "SRC:DST", "/a:b": "absolute path", "/a:/": "below /", "data:/data": "volumes have no names", ":/data": "SRC is empty",
		"/a:/b:rx": `unknown option "rx"`, "/a:/b:ro:x": "SRC:DST",
	} {
		if _, err := hostVolume(value); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "--volume") {
			t.Errorf("%q: %v; want %q", value, err, words)
		}
	}
}
