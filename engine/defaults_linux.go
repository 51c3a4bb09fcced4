package engine

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/isolator"
)

// defaultContainerInfo reads --default_container_info; nil: there is none.
func (c Config) defaultContainerInfo() (*v1.ContainerInfo, error) {
	if c.DefaultContainerInfo == "" {
		return nil, nil
	}
	info, err := ReadContainerInfo(c.DefaultContainerInfo)
	if err == nil && info.GetType() != v1.ContainerInfo_MESOS {
		err = fmt.Errorf("type %s: %w: berth launches containers of type MESOS", info.GetType(), container.ErrNotSupported)
	}
	if err == nil {
		err = isolator.CheckVolumes(&v1.ContainerConfig{ContainerInfo: info})
	}
	if err != nil {
		return nil, fmt.Errorf("--default_container_info: %w", err)
	}
	return info, nil
}

// ReadContainerInfo reads a ContainerInfo: JSON, or the name or file:// URL of a file with
// it. ErrInvalid: it is none.
func ReadContainerInfo(value string) (*v1.ContainerInfo, error) {
	info := &v1.ContainerInfo{}
	return info, readMessage(value, info)
}

// Counted are the resources, of cpus and mem, that an isolator counts.
func (e *Engine) Counted() []string { return e.counted }

func (c Config) counted() (names []string) {
	for _, name := range []string{"cpus", "mem"} {
		by := map[string]string{"cpus": "cgroups/cpu", "mem": "cgroups/mem"}[name]
		if c.isolates(by) {
			names = append(names, name)
		}
	}
	return names
}

// Complete returns what a request is launched as: one of a root container that brings no
// ContainerInfo gets that of --default_container_info, and is not merged with it
// otherwise. ErrNotSupported: it has an image, and no isolator can give it a root file
// system.
func (e *Engine) Complete(id container.ID, config *v1.ContainerConfig) (*v1.ContainerConfig, error) {
	if _, nested := id.Parent(); !nested && config.GetContainerInfo() == nil && e.defaultInfo != nil {
		config = proto.CloneOf(config)
		config.ContainerInfo = proto.CloneOf(e.defaultInfo)
	}
	if !e.imagesRun && config.GetContainerInfo().GetMesos().GetImage() != nil {
		return nil, fmt.Errorf("launch %s: %w: a container with an image needs --isolation=filesystem/linux", id, container.ErrNotSupported)
	}
	return config, nil
}

// Launch launches a container as Complete says; see containerizer.Containerizer.
func (e *Engine) Launch(ctx context.Context, id container.ID, req containerizer.Request) (err error) {
	if req.Config, err = e.Complete(id, req.Config); err != nil {
		return err
	}
	return e.Containerizer.Launch(ctx, id, req)
}
