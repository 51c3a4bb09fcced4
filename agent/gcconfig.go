package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "berth/api/v1"
	"berth/container"
)

// ParseImageGC reads a value of --image_gc_config: an ImageGcConfig as JSON, or where
// there is a file with one, as file:///PATH or /PATH. Errors name the flag; ErrInvalid:
// the value, or what is in the file.
func ParseImageGC(value string) (*v1.ImageGcConfig, error) {
	config, err := parseImageGC(value)
	if err != nil {
		return nil, fmt.Errorf("--image_gc_config: %w", err)
	}
	return config, nil
}

func parseImageGC(value string) (*v1.ImageGcConfig, error) {
	text, err := jsonOrFile(value)
	if err != nil {
		return nil, err
	}
	config := &v1.ImageGcConfig{}
	if err := v1.Unmarshal(text, config); err != nil {
		return nil, err
	}
	return config, checkImageGC(text, config)
}

// jsonOrFile returns an object in JSON, or what is in the file that a value names.
func jsonOrFile(value string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		return []byte(value), nil
	}
	path := strings.TrimPrefix(value, "file://")
	if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("%q: %w: give an object in JSON, file:///PATH or /PATH", value, container.ErrInvalid)
	}
	return os.ReadFile(path)
}

func checkImageGC(text []byte, config *v1.ImageGcConfig) error {
	if headroom := config.GetImageDiskHeadroom(); !(headroom >= 0 && headroom <= 1) {
		return fmt.Errorf("image_disk_headroom: %w: %v is no share of a disk, from 0.0 to 1.0", container.ErrInvalid, headroom)
	}
	if interval := config.GetImageDiskWatchInterval().GetNanoseconds(); interval <= 0 {
		return fmt.Errorf("image_disk_watch_interval: %w: %d nanoseconds are no time between two looks at the disk", container.ErrInvalid, interval)
	}
	// To v1.Unmarshal a name that it does not know is that of a newer peer. Here it is a
	// person's slip, and images that were to be excluded would go.
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	fields := config.ProtoReflect().Descriptor().Fields()
	for name := range members {
		if fields.ByName(protoreflect.Name(name)) == nil {
			return fmt.Errorf("%w: unknown field %q", container.ErrInvalid, name)
		}
	}
	return nil
}
