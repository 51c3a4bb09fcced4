// Package rlimits is the isolator posix/rlimits: the resource limits of setrlimit(2) of a
// container's command, and so of all processes that come of it. Each counts for a process
// or a user, not for the container.
package rlimits

import (
	"context"
	"fmt"
	"math"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher/plan"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Supports implements isolator.Supporter: nested containers have limits of their own.
func (i *Isolator) Supports() isolator.Support {
	return isolator.Support{Nested: true, SharedCgroups: true}
}

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	limits, err := limitsOf(c.Config.GetContainerInfo().GetRlimitInfo())
	if err != nil || len(limits) == 0 {
		return nil, err
	}
	return &isolator.LaunchInfo{Rlimits: limits}, nil
}

func limitsOf(info *v1.RLimitInfo) (limits []plan.Rlimit, err error) {
	seen := map[v1.RLimitInfo_RLimit_Type]bool{}
	for _, l := range info.GetRlimits() {
		limit := plan.Rlimit{Name: strings.ToLower(strings.TrimPrefix(l.GetType().String(), "RLMT_")), Soft: math.MaxUint64, Hard: math.MaxUint64}
		why := ""
		switch {
		case l.GetType() == v1.RLimitInfo_RLimit_UNKNOWN:
			return nil, fmt.Errorf("posix/rlimits: %w: a limit has no type, or one that berth does not know", container.ErrInvalid)
		case seen[l.GetType()]:
			why = "it is there twice"
		case (l.Soft == nil) != (l.Hard == nil):
			why = "soft and hard limit are either both set, or neither is: no limit"
		case l.GetSoft() > l.GetHard():
			why = fmt.Sprintf("the soft limit %d is above the hard one, %d", l.GetSoft(), l.GetHard())
		case l.Soft != nil:
			limit.Soft, limit.Hard = l.GetSoft(), l.GetHard()
		}
		if why != "" {
			return nil, fmt.Errorf("posix/rlimits: limit %s: %w: %s", limit.Name, container.ErrInvalid, why)
		}
		seen[l.GetType()] = true
		limits = append(limits, limit)
	}
	return limits, nil
}

// Cleanup implements isolator.Isolator: the limits went with the processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
