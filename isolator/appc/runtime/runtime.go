//go:build linux

// Package runtime is the isolator appc/runtime: what the manifest of an Appc image says of
// how it wants to be run, its exec, environment, user, groups and working directory, combined
// with what the request says. The exec of an image is in the place of a Docker image's
// command, and there is no entrypoint.
//
// What the dependencies of an image say does not count, as the specification has it.
package runtime

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"berth/container"
	"berth/image"
	"berth/image/appc"
	"berth/internal/inroot"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if c.Image == nil || c.Image.Appc == nil || c.Image.Appc.App == nil {
		return nil, nil
	}
	info, err := prepare(c, c.Image.Appc.App)
	if err != nil {
		return nil, fmt.Errorf("appc/runtime: %w", err)
	}
	return info, nil
}

func prepare(c *isolator.Container, app *appc.App) (*isolator.LaunchInfo, error) {
	user, err := account(c, app)
	if err != nil {
		return nil, err
	}
	info, err := isolator.RunImage(c.Config, image.RunConfig{Cmd: app.Exec, Env: app.Env(), User: user, WorkingDir: app.WorkingDirectory})
	if err != nil {
		return nil, err
	}
	info.Groups = app.SupplementaryGIDs
	return info, nil
}

// account returns USER[:GROUP]. A path stands for the user or the group to whom what is
// there belongs.
func account(c *isolator.Container, app *appc.App) (string, error) {
	rootfs := c.Config.GetRootfs()
	user, group := app.User, app.Group
	if strings.HasPrefix(user, "/") {
		uid, _, err := inroot.Owner(rootfs, user)
		if err != nil {
			return "", fmt.Errorf("the user is the owner of %q: %w", app.User, err)
		}
		user = strconv.FormatUint(uint64(c.IDs.Inside(uid)), 10)
	}
	if strings.HasPrefix(group, "/") {
		_, gid, err := inroot.Owner(rootfs, group)
		if err != nil {
			return "", fmt.Errorf("the group is that of %q: %w", app.Group, err)
		}
		group = strconv.FormatUint(uint64(c.IDs.Inside(gid)), 10)
	}
	switch {
	case group == "":
		return user, nil
	case user == "":
		user = "0"
	}
	return user + ":" + group, nil
}

// Cleanup implements isolator.Isolator: nothing was made.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
