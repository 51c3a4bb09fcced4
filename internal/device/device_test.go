package device

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
)

func TestRulesAreReadAsTheyAreWritten(t *testing.T) {
	for _, text := range []string{"c 1:3 rwm", "b *:* m", "c 136:* rw", "b 259:4294967294 r"} {
		rule, err := ParseRule(text)
		if err != nil || rule.String() != text {
			t.Errorf("%q: %v, %v", text, rule, err)
		}
	}
	for _, text := range []string{"", "a *:* rwm", "c 1:3", "c 1 rwm", "c -1:3 r", "c 1:3 rx", "x 1:3 r", "c 1:4294967296 r", "c 1:3 r w"} {
		if rule, err := ParseRule(text); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, rule, err)
		}
	}
}

func TestNormalize(t *testing.T) {
	rule := func(text string) Rule {
		r, err := ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// An entry of --allowed_devices that is among the standard ones breaks every launch of
	// Mesos with cgroup v2.
	got := Normalize([]Rule{rule("c 1:5 r"), rule("c 1:3 rw"), rule("b 1:3 r"), rule("c 1:3 m"), rule("c 1:5 r")})
	if diff := cmp.Diff([]Rule{rule("b 1:3 r"), rule("c 1:3 rwm"), rule("c 1:5 r")}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDevicesAreFoundByPathAndByNumber(t *testing.T) {
	number := func(major, minor uint64) *v1.Device {
		return &v1.Device{Number: &v1.Device_Number{MajorNumber: &major, MinorNumber: &minor}}
	}
	path := func(path string) *v1.Device { return &v1.Device{Path: proto.String(path)} }
	null := Device{Char, 1, 3}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]*v1.Device{"a path": path("/dev/null"), "a link": path(link)} {
		if got, err := Resolve(d); err != nil || got != null {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// Where there are RAM disks, 1:3 is one of them, too.
	if got, err := Resolve(number(5, 2)); err != nil || got != (Device{Char, 5, 2}) {
		t.Errorf("a number: %v, %v", got, err)
	}
	both := number(1, 3)
	both.Path = proto.String("/dev/null")
	for words, d := range map[string]*v1.Device{
		"no device":           path("/etc/passwd"),
		"no such file":        path("/dev/none"),
		"absolute":            path("dev/null"),
		"none of this number": number(4095, 77),
		"by its path or":      both,
		"without path":        {},
	} {
		if _, err := Resolve(d); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want words %q", err, words)
		}
	}
}
