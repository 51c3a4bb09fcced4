package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/container"
)

const validGC = `{"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": 3600000000000},
	"excluded_images": [{"type": "DOCKER", "docker": {"name": "127.0.0.1:5000/keep:1"}}]}`

func TestImageGCConfigIsInlineOrInAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gc.json")
	if err := os.WriteFile(file, []byte(validGC), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{validGC, "\n " + validGC, file, "file://" + file} {
		config, err := ParseImageGC(value)
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		if config.GetImageDiskHeadroom() != 0.1 || config.GetImageDiskWatchInterval().GetNanoseconds() != 3_600_000_000_000 ||
			config.GetExcludedImages()[0].GetDocker().GetName() != "127.0.0.1:5000/keep:1" {
			t.Errorf("%s: read %v", value, config)
		}
	}
}

func TestImageGCConfigThatIsNone(t *testing.T) {
	for _, c := range []struct{ name, value, words string }{
		{"no value", "", "give an object in JSON, file:///PATH or /PATH"},
		{"a relative path", "gc.json", "give an object in JSON, file:///PATH or /PATH"},
		{"a relative URL", "file://gc.json", "give an object in JSON, file:///PATH or /PATH"},
		{"cut short", `{"image_disk_headroom": 0.1`, "too early"},
		{"more than one object", validGC + "{}", "more after"},
		{"no headroom", `{"image_disk_watch_interval": {"nanoseconds": 1}}`, "image_disk_headroom: invalid: required"},
		{"headroom below", `{"image_disk_headroom": -0.1, "image_disk_watch_interval": {"nanoseconds": 1}}`, "image_disk_headroom: invalid: -0.1"},
		{"headroom above", `{"image_disk_headroom": 1.01, "image_disk_watch_interval": {"nanoseconds": 1}}`, "image_disk_headroom: invalid: 1.01"},
		{"headroom in percent", `{"image_disk_headroom": "10%", "image_disk_watch_interval": {"nanoseconds": 1}}`, "image_disk_headroom: invalid"},
		{"headroom infinite", `{"image_disk_headroom": "Infinity", "image_disk_watch_interval": {"nanoseconds": 1}}`, "image_disk_headroom: invalid"},
		{"no interval", `{"image_disk_headroom": 0.1}`, "image_disk_watch_interval: invalid: required"},
		{"no nanoseconds", `{"image_disk_headroom": 0.1, "image_disk_watch_interval": {}}`, "image_disk_watch_interval.nanoseconds: invalid: required"},
		{"interval of nothing", `{"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": 0}}`, "image_disk_watch_interval: invalid: 0 nanoseconds"},
		{"interval below nothing", `{"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": -5}}`, "image_disk_watch_interval: invalid: -5 nanoseconds"},
		{"interval as a word", `{"image_disk_headroom": 0.1, "image_disk_watch_interval": "1hrs"}`, "image_disk_watch_interval: invalid: want an object"},
		{"image without a type", `{"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": 1}, "excluded_images": [{}]}`, "excluded_images[0].type: invalid: required"},
		{"images as names", `{"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": 1}, "excluded_images": ["a"]}`, "excluded_images[0]: invalid: want an object"},
		{"a name that is unknown", `{"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": 1}, "excluded_image": []}`, `unknown field "excluded_image"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseImageGC(c.value)
			if !errors.Is(err, container.ErrInvalid) || !strings.HasPrefix(err.Error(), "--image_gc_config: ") || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v; want an error of class invalid that names the flag and says %q", err, c.words)
			}
		})
	}
	if _, err := ParseImageGC("/no/such/file"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--image_gc_config: ") {
		t.Errorf("of a missing file: %v", err)
	}
}
