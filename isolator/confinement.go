package isolator

import (
	"fmt"

	"berth/container"
	"berth/internal/capability"
	"berth/launcher/plan"
)

// Confinement is what the programs of a container may do. The zero value takes nothing from
// them. It is a part of the record of a container.
type Confinement struct {
	Capabilities    *Capabilities `json:"capabilities,omitempty"`
	NoNewPrivileges bool          `json:"no_new_privileges,omitempty"`
	// Filter and FilterFlags are those of plan.Confinement.
	Filter          []byte `json:"filter,omitempty"`
	FilterFlags     uint   `json:"filter_flags,omitempty"`
	AppArmorProfile string `json:"apparmor_profile,omitempty"`
	SELinuxLabel    string `json:"selinux_label,omitempty"`
}

// Capabilities are what the programs of a container may have.
type Capabilities struct {
	// Bounding is the most that any of them can get.
	Bounding capability.Set `json:"bounding"`
	// Root is what a command of user 0 starts with, Others what those of other users do; both
	// are parts of Bounding.
	Root   capability.Set `json:"root"`
	Others capability.Set `json:"others"`
}

// add puts a further part to this one. What only one isolator may say is an error when two
// say it.
func (c *Confinement) add(part Confinement) error {
	c.NoNewPrivileges = c.NoNewPrivileges || part.NoNewPrivileges
	for _, err := range []error{
		once(&c.Capabilities, part.Capabilities, "capabilities"),
		once(&c.AppArmorProfile, part.AppArmorProfile, "an AppArmor profile"),
		once(&c.SELinuxLabel, part.SELinuxLabel, "an SELinux label"),
	} {
		if err != nil {
			return err
		}
	}
	if part.Filter == nil {
		return nil
	}
	if c.Filter != nil {
		return fmt.Errorf("%w: two isolators specify a system call filter", container.ErrInvalid)
	}
	c.Filter, c.FilterFlags = part.Filter, part.FilterFlags
	return nil
}

// Of returns what it means for a command of a user.
func (c Confinement) Of(uid uint32) plan.Confinement {
	return plan.Confinement{
		Capabilities: c.Capabilities.of(uid), NoNewPrivileges: c.NoNewPrivileges, Filter: c.Filter, FilterFlags: c.FilterFlags,
		AppArmorProfile: c.AppArmorProfile, SELinuxLabel: c.SELinuxLabel,
	}
}

// of returns the sets that make the kernel give a program what it is to have. To root the
// kernel gives the bounding set. To others, and to a root that is to have less, it gives
// the ambient set, unless the program's file has capabilities or is set-user-id.
func (c *Capabilities) of(uid uint32) *plan.Capabilities {
	switch {
	case c == nil:
		return nil
	case uid == 0 && c.Root == c.Bounding:
		return &plan.Capabilities{Effective: uint64(c.Root), Bounding: uint64(c.Bounding)}
	case uid == 0:
		return ambient(c.Root, c.Bounding, true)
	default:
		return ambient(c.Others, c.Bounding, false)
	}
}

func ambient(set, bounding capability.Set, noRoot bool) *plan.Capabilities {
	return &plan.Capabilities{Effective: uint64(set), Inheritable: uint64(set), Ambient: uint64(set), Bounding: uint64(bounding), NoRoot: noRoot}
}
