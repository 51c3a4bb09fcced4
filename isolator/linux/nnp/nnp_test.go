package nnp

import (
	"testing"

	"berth/isolator"
	"berth/isolator/isolatortest"
)

func TestConformance(t *testing.T) { isolatortest.Run(t, New(), isolatortest.Requests{}) }

func TestEveryContainerHasIt(t *testing.T) {
	info, err := New().Prepare(t.Context(), &isolator.Container{})
	if err != nil || !info.Confinement.NoNewPrivileges {
		t.Error(info, err)
	}
}
