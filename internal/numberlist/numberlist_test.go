package numberlist

import (
	"errors"
	"testing"

	"berth/container"
)

func TestParse(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-2,5": 4, "1,1,0-1": 2, "65535": 1} {
		if got, err := Parse(list); err != nil || len(got) != want {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, list := range []string{"", "all", "0,", ",0", "1-0", "-1", "0-", "0-4294967295", "65536", "0 1", "0\n1", "+1", "0x1"} {
		if got, err := Parse(list); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
}
