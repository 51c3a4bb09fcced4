//go:build linux

package main

import (
	"strings"
	"testing"

	"berth/engine"
)

func TestInfoTellsByWhatMeansSomethingWorks(t *testing.T) {
	var out strings.Builder
	printAbilities(&out, "BACKEND\tWORKS", []engine.Ability{
		{Name: "erofs", Works: true, Default: true, Means: "by loop devices"},
		{Name: "overlay", Works: true},
		{Name: "aufs", Reason: "this kernel has none"},
	})
	if want := "\nBACKEND\tWORKS\nerofs\tyes (default), by loop devices\noverlay\tyes\naufs\tno: this kernel has none\n"; out.String() != want {
		t.Errorf("it prints %q, want %q", out.String(), want)
	}
}
