package capability

import (
	"errors"
	"runtime"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
)

func TestTheNamesAreThoseOfTheMessages(t *testing.T) {
	for value, name := range v1.CapabilityInfo_Capability_name {
		if value == 0 {
			continue
		}
		byName, err := Parse(name)
		byNumber, numberErr := Numbered(int(value) - 1000)
		if err != nil || numberErr != nil || byName != byNumber || byName.String() != name {
			t.Errorf("%s, %d: %v, %v; %v, %v", name, value, byName, byNumber, err, numberErr)
		}
	}
	if len(v1.CapabilityInfo_Capability_name) != len(names)+1 {
		t.Errorf("the messages have %d names", len(v1.CapabilityInfo_Capability_name))
	}
}

func TestParse(t *testing.T) {
	for name, want := range map[string]Set{"CAP_NET_RAW": 1 << 13, "net_raw": 1 << 13, "cap_chown": 1, "all": All, "ALL": All} {
		if got, err := Parse(name); got != want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "CAP_", "CAP_CAP_CHOWN", "NET", "CAP_ALL", "1"} {
		if got, err := Parse(name); got != 0 || !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	for _, n := range []int{-1, 41, 1000} {
		if _, err := Numbered(n); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func TestSet(t *testing.T) {
	if s := Of("CHOWN", "CHECKPOINT_RESTORE"); s.String() != "CHOWN, CHECKPOINT_RESTORE" || !All.Has(s) || s.Has(All) || !s.Has(0) {
		t.Error(s)
	}
	if s := Set(1 << 63); s.String() != "63" || Set(0).String() != "none" {
		t.Error(s)
	}
}

func TestHeld(t *testing.T) {
	got, err := held("Name:\tx\nCapInh:\tff\nCapPrm:\t000001fffeffffff\nCapEff:\t0\nCapBnd:\t000001ff0effffff\n")
	if got != 0x1ff0effffff || err != nil {
		t.Errorf("%x, %v", uint64(got), err)
	}
	for _, text := range []string{"", "\nCapPrm:\t0\n", "\nCapPrm:\tx\nCapBnd:\t0\n"} {
		if _, err := held(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
	if runtime.GOOS == "linux" {
		if _, err := Held(); err != nil {
			t.Error(err)
		}
	}
}
