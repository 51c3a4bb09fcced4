//go:build linux

package mesos

import (
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/atomicfile"
	"berth/internal/inroot"
	"berth/internal/mount"
	"berth/isolator"
	"berth/launcher/plan"
)

// made is what was made of a request: what is to be known of a container once it runs.
type made struct {
	Launched   time.Time      `json:"launched"`
	StopSignal syscall.Signal `json:"stop_signal,omitempty"`
	Env        []string       `json:"env"`
	Dir        string         `json:"dir"`
	UID        uint32         `json:"uid"`
	GID        uint32         `json:"gid"`
	Groups     []uint32       `json:"groups"`
	Streams    streams        `json:"streams"`
	// Confinement is that of the container, and of whoever looks into it: it is not to be
	// found out again by an agent that is configured otherwise.
	Confinement isolator.Confinement `json:"confinement,omitzero"`
}

func (l *launch) recordMade(c plan.Command) error {
	l.made = made{time.Now(), l.info.StopSignal, withoutSecrets(c.Env, l.info.Secrets), c.Dir, c.UID, c.GID, c.Groups, l.streams(), l.info.Confinement}
	data, err := json.Marshal(l.made)
	if err != nil {
		return err
	}
	return atomicfile.Write(l.records.Launch(), append(data, '\n'), 0o600, false)
}

// parse reads what recordMade wrote.
func (m *made) parse(data []byte) error { return json.Unmarshal(data, m) }

// inherit gives a nested container what it has of its parent, and refuses what it cannot
// have.
func (l *launch) inherit(config *v1.ContainerConfig) error {
	class := config.GetContainerClass()
	if l.parent == nil {
		if class == v1.ContainerClass_DEBUG {
			return fmt.Errorf("%w: a container of the class DEBUG is nested in the one that it looks into", container.ErrInvalid)
		}
		return nil
	}
	l.parent.updating.Lock()
	parent := l.parent.container
	l.parent.updating.Unlock()
	l.container.Parent = parent
	if parent.IsDebug() {
		return fmt.Errorf("%w: a container of the class DEBUG has none nested in it", container.ErrInvalid)
	}
	if config.GetUser() == "" && config.GetCommandInfo().GetUser() == "" && parent.Config.GetUser() != "" {
		config.User = proto.String(parent.Config.GetUser())
	}
	if err := checkShared(l.container); err != nil {
		return err
	}
	info := config.GetContainerInfo()
	if class == v1.ContainerClass_DEBUG && (info.GetMesos().GetImage() != nil || len(info.GetVolumes()) > 0) {
		return fmt.Errorf("%w: a container of the class DEBUG has the file system of its parent, and no image and volumes", container.ErrInvalid)
	}
	return nil
}

// debugPlan is for a command in the place of the parent.
func (l *launch) debugPlan() (plan.Plan, error) {
	config, parent := l.container.Config, l.parent.made
	command, err := isolator.ResolveCommand(config, nil, nil)
	if err != nil {
		return plan.Plan{}, err
	}
	p := plan.Plan{EnterMounts: true, Input: l.req.Input, Command: plan.Command{
		Path: command.Path, Args: command.Args, Dir: firstOf(config.GetWorkingDirectory(), parent.Dir),
		UID: parent.UID, GID: parent.GID, Groups: parent.Groups}}
	if p.Terminal, err = l.terminal(); err != nil {
		return plan.Plan{}, err
	}
	if p.Logs, err = l.logs(); err != nil {
		return plan.Plan{}, err
	}
	l.info.Confinement = parent.Confinement
	var home string
	if asked := firstOf(config.GetUser(), config.GetCommandInfo().GetUser()); asked != "" && asked != l.parent.container.Config.GetUser() {
		root := firstOf(l.parent.container.Config.GetRootfs(), "/")
		user, err := inroot.LookupUser(root, asked)
		if err != nil {
			return plan.Plan{}, err
		}
		if err := l.hasUser(user); err != nil {
			return plan.Plan{}, err
		}
		p.Command.UID, p.Command.GID, p.Command.Groups, home = user.UID, user.GID, user.Groups, user.Home
	}
	p.Command.Confinement = parent.Confinement.Of(p.Command.UID)
	env := parent.Env
	if home != "" {
		env = append(append([]string{}, env...), "HOME="+home)
	}
	if env, err = environment(config, append(append([]string{}, env...), l.info.Env...), ""); err != nil {
		return plan.Plan{}, err
	}
	p.Command.Env, err = withSecrets(env, config, l.info.Secrets)
	return p, err
}

// removeNestedSandbox removes the sandbox of a nested container, and of those in it.
func (l *launch) removeNestedSandbox() error {
	for _, dir := range []string{l.Layout.NestedSandboxes(l.id), l.Layout.Sandbox(l.id)} {
		if _, err := mount.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}
