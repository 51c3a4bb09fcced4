//go:build linux

package main

import (
	"runtime/debug"
	"testing"

	"berth/engine"
)

func TestWhoFetchesKeepsWithinMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for environment, want := range map[string]int64{"": fetchMemory, "1GiB": before} {
		debug.SetMemoryLimit(before)
		t.Setenv("GOMEMLIMIT", environment)
		config := &engine.Config{}
		fetching(config)
		if got := debug.SetMemoryLimit(-1); got != want {
			t.Errorf("with GOMEMLIMIT=%q the limit is %d, not %d", environment, got, want)
		}
		if config.Progress == nil {
			t.Error("nothing is shown")
		}
	}
}
