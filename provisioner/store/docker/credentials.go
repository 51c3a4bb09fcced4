package docker

import (
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/registry"
)

// withSecret returns a client that puts the credentials of a request before its own. They
// are a docker configuration.
func withSecret(client *registry.Client, secret *v1.Secret) (*registry.Client, error) {
	if secret == nil {
		return client, nil
	}
	if secret.GetType() != v1.Secret_VALUE {
		return nil, fmt.Errorf("credentials in the request: a secret of type %s: %w; give its value", secret.GetType(), container.ErrNotSupported)
	}
	config, err := registry.ParseDockerConfig(secret.GetValue().GetData())
	if err != nil {
		return nil, fmt.Errorf("credentials in the request: %w", err)
	}
	return client.As(config.Entries()), nil
}
