package isolator

import (
	"context"
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
)

// SecretResolver knows secrets by name.
type SecretResolver interface {
	// Resolve returns what a reference names. No error has any of it. ErrInvalid: there is no
	// such secret, or others could have read it.
	Resolve(ctx context.Context, reference *v1.Secret_Reference) ([]byte, error)
}

// ResolveSecret returns what a secret is: its value, or what the resolver knows by its name; a
// nil one knows nothing. No error has any of it. ErrInvalid: it is no secret.
// ErrNotSupported: there is no resolver.
func ResolveSecret(ctx context.Context, by SecretResolver, s *v1.Secret) ([]byte, error) {
	switch {
	case s.GetType() == v1.Secret_VALUE && s.Value != nil && s.Reference == nil:
		return s.GetValue().GetData(), nil
	case s.GetType() != v1.Secret_REFERENCE || s.Reference == nil || s.Value != nil:
		return nil, fmt.Errorf("%w: a secret is of type VALUE and has a value, or of type REFERENCE and has a reference", container.ErrInvalid)
	case by == nil:
		return nil, fmt.Errorf("the secret is a REFERENCE to %q: %w: nobody here keeps secrets by name; say by --secrets_dir where they are, or give its VALUE", s.GetReference().GetName(), container.ErrNotSupported)
	}
	return by.Resolve(ctx, s.GetReference())
}
