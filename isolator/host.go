package isolator

import (
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
)

// OnHost is the part of a launch that whichever isolator has the file system returns for
// a container that lives in the host's: it works in its sandbox. The error is of class
// ErrInvalid for a root that is to be read-only.
func OnHost(config *v1.ContainerConfig) (*LaunchInfo, error) {
	if config.GetReadOnlyRootfs() {
		return nil, fmt.Errorf("%w: the host's file system cannot be made read-only; run an image", container.ErrInvalid)
	}
	return &LaunchInfo{WorkingDir: config.GetDirectory(), Env: []string{"MESOS_SANDBOX=" + config.GetDirectory()}}, nil
}

// WithoutRootfs refuses a root filesystem on behalf of an isolator that can only show the
// host's, with an error of class ErrNotSupported.
func WithoutRootfs(config *v1.ContainerConfig) error {
	if config.GetRootfs() != "" {
		return fmt.Errorf("%w: a container with an image needs --isolation=filesystem/linux", container.ErrNotSupported)
	}
	return nil
}
