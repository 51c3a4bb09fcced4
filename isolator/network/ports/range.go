package ports

import (
	"fmt"
	"strconv"
	"strings"

	"berth/container"
)

const maxPort = 65535

// Range is ports from First to Last, both included.
type Range struct{ First, Last uint16 }

// ParseRanges reads ranges as Mesos writes them: "[31000-32000,33000-33100]". ErrInvalid:
// it is none.
func ParseRanges(text string) ([]Range, error) {
	inner, opened := strings.CutPrefix(text, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	all := []Range{}
	for part := range strings.SplitSeq(inner, ",") {
		first, last, ok := strings.Cut(strings.TrimSpace(part), "-")
		begin, err := strconv.ParseUint(first, 10, 16)
		end, endErr := strconv.ParseUint(last, 10, 16)
		if !opened || !closed || !ok || err != nil || endErr != nil || begin > end {
			return nil, fmt.Errorf("ports %q: %w: they are ranges as [31000-32000,33000-33100]", text, container.ErrInvalid)
		}
		all = append(all, Range{uint16(begin), uint16(end)})
	}
	return all, nil
}

func within(ranges []Range, port uint16) bool {
	for _, r := range ranges {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// format writes what ParseRanges reads.
func format(ranges []Range) string {
	var parts []string
	for _, r := range ranges {
		parts = append(parts, fmt.Sprintf("%d-%d", r.First, r.Last))
	}
	return "[" + strings.Join(parts, ",") + "]"
}
