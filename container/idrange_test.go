package container

import "testing"

func TestIDRange(t *testing.T) {
	r := IDRange{Start: 100000, Size: 65536}
	for host, inside := range map[uint32]uint32{100000: 0, 165535: 65535, 165536: overflow, 99999: overflow, 0: overflow} {
		if got := r.Inside(host); got != inside {
			t.Errorf("%d is %d inside, not %d", host, got, inside)
		}
	}
	if !r.Has(65535) || r.Has(65536) || r.OnHost(33) != 100033 || r.IsHost() || r.String() != "100000:65536" {
		t.Errorf("%v", r)
	}
	var host IDRange
	if !host.IsHost() || !host.Has(1<<31) || host.OnHost(7) != 7 || host.Inside(7) != 7 {
		t.Error("the host's ids are not what they are")
	}
	last := IDRange{Start: 1<<32 - 65536, Size: 65536}
	for other, overlaps := range map[IDRange]bool{
		r: true, {165535, 1}: true, {165536, 1}: false, {99999, 1}: false, {99999, 2}: true, {0, 1 << 31}: true, last: false, host: false,
	} {
		if r.Overlaps(other) != overlaps || other.Overlaps(r) != overlaps {
			t.Errorf("%v and %v: %v", r, other, !overlaps)
		}
	}
}
