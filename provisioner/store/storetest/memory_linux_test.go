package storetest

import "testing"

func TestMemory(t *testing.T) {
	Run(t, func(testing.TB, string) Source { return NewMemory().Source() })
}
