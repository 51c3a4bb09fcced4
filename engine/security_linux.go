package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/capability"
	"berth/isolator"
	"berth/isolator/linux/capabilities"
	"berth/isolator/linux/seccomp"
)

// security are the isolators of what the programs of a container may do. They are made
// before the others: the operator's settings may be wrong.
type security struct {
	capabilities *capabilities.Isolator
	seccomp      *seccomp.Isolator
}

func newSecurity(c Config) (s security, err error) {
	effective, effectiveErr := capabilityFlag("--effective_capabilities", c.EffectiveCapabilities)
	bounding, boundingErr := capabilityFlag("--bounding_capabilities", c.BoundingCapabilities)
	held, err := capability.Held()
	if err := errors.Join(effectiveErr, boundingErr, err); err != nil {
		return s, err
	}
	if s.capabilities, err = capabilities.New(capabilities.Options{Effective: effective, Bounding: bounding, Held: held}); err != nil {
		return s, err
	}
	options := seccomp.Options{Dir: c.SeccompConfigDir, ProfileName: c.SeccompProfileName, Bounding: func(*isolator.Container) (capability.Set, error) { return held, nil }}
	if c.isolates("linux/capabilities") {
		options.Bounding = func(of *isolator.Container) (capability.Set, error) {
			sets, err := s.capabilities.Of(of)
			if err != nil {
				return 0, err
			}
			return sets.Bounding, nil
		}
	}
	s.seccomp, err = seccomp.New(options)
	return s, err
}

// capabilityFlag reads a flag with a CapabilityInfo; nil: it says nothing.
func capabilityFlag(name, value string) (*v1.CapabilityInfo, error) {
	if value == "" {
		return nil, nil
	}
	info := &v1.CapabilityInfo{}
	if err := readMessage(value, info); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return info, nil
}

// readMessage reads a message: a JSON object, or the name or file:// URL of a file with it.
// ErrInvalid: it is none.
func readMessage(value string, message proto.Message) error {
	data, err := readJSON(value)
	if err != nil {
		return err
	}
	return v1.Unmarshal(data, message)
}

func readJSON(value string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		return []byte(value), nil
	}
	data, err := os.ReadFile(strings.TrimPrefix(value, "file://"))
	if err != nil {
		return nil, fmt.Errorf("%w: it is neither a JSON object nor a file that can be read: %w", container.ErrInvalid, err)
	}
	return data, nil
}
