// Package environmentsecret is the isolator environment_secret: variables of the request
// that are secrets get their values. These are in the memory of berth and of the
// container's processes, and nowhere else: whoever looks into the container later
// does not get them.
package environmentsecret

import (
	"bytes"
	"context"
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{ resolver isolator.SecretResolver }

// New returns the isolator. With a nil resolver, secrets have values.
func New(r isolator.SecretResolver) *Isolator { return &Isolator{r} }

// Supports implements isolator.Supporter.
func (i *Isolator) Supports() isolator.Support {
	return isolator.Support{Nested: true, SharedCgroups: true, Debug: true}
}

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info := &isolator.LaunchInfo{}
	for _, v := range c.Config.GetCommandInfo().GetEnvironment().GetVariables() {
		if v.GetType() != v1.Environment_Variable_SECRET {
			continue
		}
		value, err := isolator.ResolveSecret(ctx, i.resolver, v.GetSecret())
		if err == nil && bytes.IndexByte(value, 0) >= 0 {
			err = fmt.Errorf("%w: a value in the environment has no NUL", container.ErrInvalid)
		}
		if err != nil {
			return nil, fmt.Errorf("environment_secret: variable %s: %w", v.GetName(), err)
		}
		info.Secrets = append(info.Secrets, isolator.SecretVariable{Name: v.GetName(), Value: string(value)})
	}
	return info, nil
}

// Cleanup implements isolator.Isolator: there is nothing.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
