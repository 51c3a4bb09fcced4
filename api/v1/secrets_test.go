package v1

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func TestWithoutSecrets(t *testing.T) {
	secret := func() *Secret {
		return &Secret{Type: Secret_VALUE.Enum(), Value: &Secret_Value{Data: []byte("hidden")}}
	}
	config := &ContainerConfig{
		CommandInfo: &CommandInfo{Environment: &Environment{Variables: []*Environment_Variable{
			{Name: proto.String("plain"), Value: proto.String("seen")}, {Name: proto.String("A"), Secret: secret()}}}},
		ContainerInfo: &ContainerInfo{Volumes: []*Volume{
			{ContainerPath: proto.String("/s"), Source: &Volume_Source{Secret: secret()}},
			{ContainerPath: proto.String("/c"), Source: &Volume_Source{CsiVolume: &Volume_Source_CSIVolume{
				StaticProvisioning: &Volume_Source_CSIVolume_StaticProvisioning{NodeStageSecrets: map[string]*Secret{"k": secret()}}}}},
			{ContainerPath: proto.String("/i"), Image: &Image{Docker: &Image_Docker{Config: secret()}}}}},
	}
	before := proto.CloneOf(config)
	without := WithoutSecrets(config)
	if !proto.Equal(before, config) {
		t.Error("the message itself has changed")
	}
	if text := without.String(); strings.Contains(text, "hidden") || strings.Count(text, "VALUE") != 4 || !strings.Contains(text, "seen") {
		t.Errorf("left is %s", text)
	}
}
