//go:build linux

package mesos

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

func variables(pairs ...string) *v1.ContainerConfig {
	env := &v1.Environment{}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		env.Variables = append(env.Variables, &v1.Environment_Variable{Name: proto.String(name), Value: proto.String(value)})
	}
	return &v1.ContainerConfig{CommandInfo: &v1.CommandInfo{Environment: env}}
}

func TestEnvironment(t *testing.T) {
	const path = "PATH=" + defaultPath
	t.Setenv("OF_BERTH", "secret")
	for _, c := range []struct {
		name   string
		config *v1.ContainerConfig
		given  []string
		home   string
		want   []string
	}{
		{"nothing", nil, nil, "", []string{path}},
		{"a home", nil, nil, "/root", []string{path, "HOME=/root"}},
		{"given overrides", nil, []string{"A=1", "HOME=/h", "PATH=/p", "A=2"}, "/root", []string{"PATH=/p", "HOME=/h", "A=2"}},
		{"the request overrides", variables("A=3", "HOME=", "PATH=/r"), []string{"A=1", "PATH=/p", "B=b"}, "/root",
			[]string{"PATH=/r", "HOME=", "A=3", "B=b"}},
		{"values with equals signs", variables("A=x=y"), []string{"B=z==", "C="}, "", []string{path, "B=z==", "C=", "A=x=y"}},
		{"names that begin alike", variables("AB=2"), []string{"A=1", "ABC=3"}, "", []string{path, "A=1", "ABC=3", "AB=2"}},
		{"an image's entries without a name or a sign", nil, []string{"", "NAME", "=x", "A=1"}, "", []string{path, "A=1"}},
		{"any bytes", variables("A=\xff\n"), []string{"B=\xfe"}, "", []string{path, "B=\xfe", "A=\xff\n"}},
		{"an empty path", variables("PATH="), nil, "", []string{"PATH="}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := environment(c.config, c.given, c.home)
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Error(err, diff)
			}
		})
	}
}

func TestBadEnvironmentIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		config *v1.ContainerConfig
		want   error
	}{
		"no name":            {variables("=1"), container.ErrInvalid},
		"a NUL in the value": {variables("A=\x00"), container.ErrInvalid},
		"a NUL in the name":  {variables("A\x00B=1"), container.ErrInvalid},
		"a sign in the name": {&v1.ContainerConfig{CommandInfo: &v1.CommandInfo{Environment: &v1.Environment{Variables: []*v1.Environment_Variable{{Name: proto.String("A=B")}}}}}, container.ErrInvalid},
	} {
		if got, err := environment(c.config, nil, ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %q, %v, want the error %v", name, got, err, c.want)
		}
	}
	secret := variables("A=1")
	secret.CommandInfo.Environment.Variables[0].Type = v1.Environment_Variable_SECRET.Enum()
	if got, err := withSecrets(nil, secret, nil); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("a secret that no isolator knows: %q, %v", got, err)
	}
}
