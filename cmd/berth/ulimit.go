//go:build linux

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// ulimit reads NAME=SOFT[:HARD]; unlimited or -1 is no limit.
func ulimit(text string) (*v1.RLimitInfo_RLimit, error) {
	name, amounts, _ := strings.Cut(text, "=")
	kind, known := v1.RLimitInfo_RLimit_Type_value["RLMT_"+strings.ToUpper(name)]
	if !known {
		return nil, fmt.Errorf("--ulimit %q: %w: it is NAME=SOFT[:HARD] with a name as nofile, nproc, core, stack; see setrlimit(2)", text, container.ErrInvalid)
	}
	soft, hard, two := strings.Cut(amounts, ":")
	if !two {
		hard = soft
	}
	l := &v1.RLimitInfo_RLimit{Type: v1.RLimitInfo_RLimit_Type(kind).Enum()}
	for text, to := range map[*string]**uint64{&soft: &l.Soft, &hard: &l.Hard} {
		amount, err := limitAmount(*text)
		if err != nil {
			return nil, fmt.Errorf("--ulimit %q: %w: %q is neither a number nor unlimited", name+"="+amounts, container.ErrInvalid, *text)
		}
		*to = proto.Uint64(amount)
	}
	return l, nil
}

func limitAmount(text string) (uint64, error) {
	if text == "unlimited" || text == "-1" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(text, 10, 64)
}
