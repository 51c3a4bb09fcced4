package rlimits

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher/plan"
)

func config(limits ...*v1.RLimitInfo_RLimit) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{RlimitInfo: &v1.RLimitInfo{Rlimits: limits}}}
}

func limit(of v1.RLimitInfo_RLimit_Type, amounts ...uint64) *v1.RLimitInfo_RLimit {
	l := &v1.RLimitInfo_RLimit{Type: of.Enum()}
	if len(amounts) > 0 {
		l.Soft = proto.Uint64(amounts[0])
	}
	if len(amounts) > 1 {
		l.Hard = proto.Uint64(amounts[1])
	}
	return l
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(), isolatortest.Requests{
		Good: config(limit(v1.RLimitInfo_RLimit_RLMT_NOFILE, 100, 200)),
		Bad: map[string]*v1.ContainerConfig{
			"soft above hard": config(limit(v1.RLimitInfo_RLimit_RLMT_NOFILE, 200, 100)),
			"soft alone":      config(limit(v1.RLimitInfo_RLimit_RLMT_NOFILE, 200)),
			"hard alone":      config(&v1.RLimitInfo_RLimit{Type: v1.RLimitInfo_RLimit_RLMT_CPU.Enum(), Hard: proto.Uint64(1)}),
			"no type":         config(&v1.RLimitInfo_RLimit{}),
			"twice":           config(limit(v1.RLimitInfo_RLimit_RLMT_CPU, 1, 1), limit(v1.RLimitInfo_RLimit_RLMT_CPU, 2, 2)),
		},
	})
}

func TestLimits(t *testing.T) {
	info, err := New().Prepare(t.Context(), &isolator.Container{Config: config(
		limit(v1.RLimitInfo_RLimit_RLMT_CORE, 0, 0), limit(v1.RLimitInfo_RLimit_RLMT_NOFILE, 100, 200), limit(v1.RLimitInfo_RLimit_RLMT_AS))})
	if err != nil {
		t.Fatal(err)
	}
	want := []plan.Rlimit{{Name: "core"}, {Name: "nofile", Soft: 100, Hard: 200}, {Name: "as", Soft: math.MaxUint64, Hard: math.MaxUint64}}
	if diff := cmp.Diff(want, info.Rlimits); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What has a number in the API has a name in the plan.
func TestEveryTypeHasALimit(t *testing.T) {
	for number := range v1.RLimitInfo_RLimit_Type_name {
		kind := v1.RLimitInfo_RLimit_Type(number)
		if kind == v1.RLimitInfo_RLimit_UNKNOWN {
			continue
		}
		info, err := New().Prepare(t.Context(), &isolator.Container{Config: config(limit(kind))})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if _, ok := plan.RlimitNumber(info.Rlimits[0].Name); !ok {
			t.Errorf("%s: berth-init does not know %q", kind, info.Rlimits[0].Name)
		}
	}
}
