package registry

import "context"

// Keychain finds credentials. It may be asked concurrently.
type Keychain interface {
	// Resolve returns the credentials for a repository of a registry: "docker.io" and
	// "library/alpine". The zero Credentials: it knows none, which is no error.
	Resolve(ctx context.Context, registry, repository string) (Credentials, error)
}

// Credentials are what a registry is told about who asks: a name and a password, or one of the
// tokens. No error or log may show them.
type Credentials struct {
	Username, Password string
	IdentityToken      string // is traded for tokens of the registry
	RegistryToken      string // is one
}

// inTurn asks the second keychain when the first has nothing.
type inTurn struct{ first, second Keychain }

func (k inTurn) Resolve(ctx context.Context, registry, repository string) (Credentials, error) {
	found, err := k.first.Resolve(ctx, registry, repository)
	if err != nil || found != (Credentials{}) {
		return found, err
	}
	return k.second.Resolve(ctx, registry, repository)
}
