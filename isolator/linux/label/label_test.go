package label

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func config(s *v1.SecurityOptions) *v1.ContainerConfig { return &v1.ContainerConfig{Security: s} }

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(), isolatortest.Requests{Bad: map[string]*v1.ContainerConfig{
		"two lines": config(&v1.SecurityOptions{ApparmorProfile: proto.String("a\nb")}),
		"a NUL":     config(&v1.SecurityOptions{SelinuxLabel: proto.String("a\x00")}),
	}})
}

func TestLabels(t *testing.T) {
	for _, c := range []struct {
		has    bool
		config *v1.ContainerConfig
	}{
		{hasAppArmor(), config(&v1.SecurityOptions{ApparmorProfile: proto.String("p")})},
		{hasSELinux(), config(&v1.SecurityOptions{SelinuxLabel: proto.String("l")})},
	} {
		has := c.has
		info, err := New().Prepare(t.Context(), &isolator.Container{Config: c.config})
		if has && (err != nil || info.Confinement.AppArmorProfile+info.Confinement.SELinuxLabel == "") || !has && !errors.Is(err, container.ErrNotSupported) {
			t.Errorf("the kernel has it: %v; %+v, %v", has, info, err)
		}
	}
}

func TestProbe(t *testing.T) {
	if err := New().Probe(t.Context()); (err == nil) != (hasAppArmor() || hasSELinux()) || err != nil && !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("AppArmor: %v, SELinux: %v; %v", hasAppArmor(), hasSELinux(), err)
	}
}
