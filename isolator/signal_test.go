package isolator_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"berth/container"
	"berth/isolator"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"SIGTERM": 15, "TERM": 15, "sigterm": 15, "Term": 15, "15": 15, "015": 15,
		"SIGQUIT": 3, "SIGWINCH": 28, "SIGKILL": 9, "9": 9, "1": 1, "64": 64, "37": 37,
		"SIGRTMIN": 34, "RTMIN": 34, "SIGRTMIN+3": 37, "rtmin+0": 34, "RTMIN+30": 64,
		"SIGRTMAX": 64, "RTMAX-30": 34, "SIGRTMAX-14": 50,
	} {
		if got, err := isolator.ParseSignal(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestParseSignalRefuses(t *testing.T) {
	for _, text := range []string{
		"", "SIG", "0", "00", "-1", "-15", "+15", "65", "128", "256", "271", "4294967311", "18446744073709551631", "12345678901234567890",
		"0x0f", "1e1", "15 ", " 15", "15\n", "SIGTERM\x00", "SIGSIGTERM", "SIG TERM", "TERM;KILL", "SIGNOSUCH", "SIG15",
		"RTMIN+", "RTMIN-1", "RTMIN+31", "RTMIN+-1", "RTMIN++1", "RTMIN3", "RTMIN+ 1", "RTMAX+1", "RTMAX-31", "RTMAX-", "RTMAX-255", "RTMAX-99999999999999999999",
		strings.Repeat("9", 1<<20),
	} {
		got, err := isolator.ParseSignal(text)
		if !errors.Is(err, container.ErrInvalid) || got != 0 {
			t.Errorf("%.40q: %d, %v, want an error of class ErrInvalid", text, got, err)
		} else if len(err.Error()) > 250 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}
