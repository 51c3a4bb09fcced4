package engine

import (
	"context"
	"fmt"

	"berth/isolator/namespaces/user"
	"berth/provisioner/backend"
)

// ranges are those of containers with user namespaces. ErrInvalid: --userns_range.
func (c Config) ranges() (*user.Ranges, error) {
	ranges := &user.Ranges{Etc: "/etc"}
	if c.UsernsRange == "" {
		return ranges, nil
	}
	var err error
	if ranges.Pool, err = user.ParseRange(c.UsernsRange); err == nil {
		err = ranges.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("--userns_range: %w", err)
	}
	return ranges, nil
}

// probeMapped tries whether a backend can make root filesystems for user namespaces.
func (i *Images) probeMapped(ctx context.Context, name string) error {
	return backend.ProbeMapped(ctx, i.Provisioner.Backends[name], i.Layout.Provisioner().Root(), i.Layers.Dir())
}

// usernsAbility tells whether containers can have user namespaces, by the default backend.
func (info *Info) usernsAbility(c Config) (a Ability) {
	a = Ability{Name: "namespaces/user", Default: c.isolates("namespaces/user")}
	for _, b := range info.Backends {
		if b.Default {
			a.Works = b.UserNamespaces
			a.Reason = b.UserNamespacesReason
		}
	}
	ranges, err := c.ranges()
	if err == nil {
		err = ranges.Check()
	}
	if err != nil {
		a.Needs = fmt.Sprintf("for --userns auto: %v", err)
	}
	return a
}
