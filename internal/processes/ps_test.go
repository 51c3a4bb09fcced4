package processes

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/container"
)

// As macOS prints it.
const printed = `    1     0     1 Ss    21424   0:12.50   1:02.75 Mon Nov  2 08:15:00 2026
  501     1   500 Z         0   0:00.00   0:00.00 Mon Nov 30 10:00:01 2026
99999   501   500 R+   123456 1-02:03:04 27:03:05.50 Mon Nov 30 10:00:02 2026
`

func TestParsePS(t *testing.T) {
	var got []Process
	if err := parsePS(printed, func(p Process) { got = append(got, p) }); err != nil {
		t.Fatal(err)
	}
	at := func(day, hour, minute, second int) int64 {
		return time.Date(2026, time.November, day, hour, minute, second, 0, time.UTC).Unix()
	}
	day := 26*time.Hour + 3*time.Minute + 4*time.Second
	want := []Process{
		{ID: ID{1, at(2, 8, 15, 0)}, Group: 1, RSS: 21424 << 10, User: 12500 * time.Millisecond, System: 50250 * time.Millisecond},
		{ID: ID{501, at(30, 10, 0, 1)}, Parent: 1, Group: 500, Dead: true},
		{ID: ID{99999, at(30, 10, 0, 2)}, Parent: 501, Group: 500, RSS: 123456 << 10, User: day, System: time.Hour + 1500*time.Millisecond},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"\n", "1 2 3\n", "x 0 1 S 1 0:00 0:00 Mon Nov 2 08:15:00 2026\n", "1 0 1 S 1 0:00 0:0:0:0 Mon Nov 2 08:15:00 2026\n"} {
		if err := parsePS(text, func(Process) {}); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestParseID(t *testing.T) {
	want := ID{12, 345}
	if got, err := ParseID(want.String() + "\n"); err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "1", "1 ", "-1 5\n", "0 0\n", "x y\n", "\x00\x00", "1 -1"} {
		if id, err := ParseID(text); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, id, err)
		}
	}
}
