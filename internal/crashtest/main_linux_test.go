package crashtest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Started with this variable, the program is a process that a test has started (child).
const childVariable = "BERTH_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		os.Exit(childMain(text))
	}
	os.Exit(m.Run())
}

// soak is for nights, not for minutes.
var soak = os.Getenv("BERTH_TEST_SOAK") != ""

// ordinarily returns small, and large under soak.
func ordinarily(small, large int) int {
	if soak {
		return large
	}
	return small
}

// random returns a source of random numbers, and has a test that fails name its seed.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(1)
	if text := os.Getenv("BERTH_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("BERTH_TEST_SEED: %v", err)
		}
	} else if soak {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to repeat it, set BERTH_TEST_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}
