package fetch

import (
	"context"
	"errors"
	"testing"
)

// Whoever waits for another's pull can give up.
func TestGivingUpTheWaitForAPull(t *testing.T) {
	var p pulls
	k := Key{Platform: "linux/arm64"}
	end, err := p.begin(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	errGivenUp := errors.New("given up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGivenUp)
	_, err = p.begin(ctx, k)
	if !errors.Is(err, errGivenUp) {
		t.Errorf("begin: %v", err)
	}
	end()
	end, err = p.begin(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	end()
}
