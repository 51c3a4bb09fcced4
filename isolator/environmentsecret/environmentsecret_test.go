package environmentsecret

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func config(s *v1.Secret) *v1.ContainerConfig {
	return &v1.ContainerConfig{CommandInfo: &v1.CommandInfo{Environment: &v1.Environment{Variables: []*v1.Environment_Variable{
		{Name: proto.String("PLAIN"), Value: proto.String("x")},
		{Name: proto.String("PASSWORD"), Type: v1.Environment_Variable_SECRET.Enum(), Secret: s},
	}}}}
}

func value(data string) *v1.Secret {
	return &v1.Secret{Type: v1.Secret_VALUE.Enum(), Value: &v1.Secret_Value{Data: []byte(data)}}
}

func bad() map[string]*v1.ContainerConfig {
	return map[string]*v1.ContainerConfig{
		"a reference, and no resolver": config(&v1.Secret{Type: v1.Secret_REFERENCE.Enum(), Reference: &v1.Secret_Reference{Name: proto.String("hunter2 is not it")}}),
		"no secret":                    config(nil),
		"a NUL":                        config(value("hunter2\x00")),
	}
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(nil), isolatortest.Requests{Good: config(value("hunter2")), Bad: bad()})
}

func TestPrepare(t *testing.T) {
	got, err := New(nil).Prepare(t.Context(), &isolator.Container{Config: config(value("hunter2"))})
	want := &isolator.LaunchInfo{Secrets: []isolator.SecretVariable{{Name: "PASSWORD", Value: "hunter2"}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := New(nil).Prepare(t.Context(), &isolator.Container{Config: bad()["a NUL"]}); strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "PASSWORD") {
		t.Errorf("%v", err)
	}
}
