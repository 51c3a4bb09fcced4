// Package label is the isolator linux/label: the command gets the AppArmor profile or the
// SELinux label that the request names, where the host's kernel has them.
package label

import (
	"context"
	"fmt"
	"os"
	"strings"

	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Probe implements isolator.Prober. ErrNotSupported: the kernel has no labels of either kind.
func (i *Isolator) Probe(context.Context) error {
	if !hasAppArmor() && !hasSELinux() {
		return fmt.Errorf("%w: this kernel has neither AppArmor nor SELinux with a policy enabled, so a container that asks for a label is refused", container.ErrNotSupported)
	}
	return nil
}

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	profile, label := c.Config.GetSecurity().GetApparmorProfile(), c.Config.GetSecurity().GetSelinuxLabel()
	for _, one := range []string{profile, label} {
		if strings.ContainsAny(one, "\x00\n") {
			return nil, fmt.Errorf("linux/label: %q: %w: a label is one line", one, container.ErrInvalid)
		}
	}
	if profile != "" && !hasAppArmor() {
		return nil, fmt.Errorf("linux/label: AppArmor profile %q: %w: AppArmor is not enabled in this kernel", profile, container.ErrNotSupported)
	}
	if label != "" && !hasSELinux() {
		return nil, fmt.Errorf("linux/label: SELinux label %q: %w: SELinux is not enabled in this kernel, or has no policy", label, container.ErrNotSupported)
	}
	return &isolator.LaunchInfo{Confinement: isolator.Confinement{AppArmorProfile: profile, SELinuxLabel: label}}, nil
}

func hasAppArmor() bool {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(enabled), "Y")
}

// hasSELinux reports whether there is a policy, too. Without one the kernel takes every label and
// minds none, and the contexts of processes are names and not USER:ROLE:TYPE.
func hasSELinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	own, ownErr := os.ReadFile("/proc/self/attr/current")
	return err == nil && ownErr == nil && strings.Contains(string(own), ":")
}

// Cleanup implements isolator.Isolator: labels go with their processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
