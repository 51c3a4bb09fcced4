// Package numberlist reads the lists of numbers by which the kernel names CPUs and memory
// nodes ("List format" in cpuset(7)).
package numberlist

import (
	"fmt"
	"strconv"
	"strings"

	"berth/container"
)

// most is more than any kernel has (CONFIG_NR_CPUS, MAX_NUMNODES).
const most = 1 << 16

// Parse reads a list of numbers and ranges, as "0-2,5". ErrInvalid: it is none.
func Parse(list string) (map[int]bool, error) {
	numbers := make(map[int]bool)
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, fromErr := strconv.ParseUint(first, 10, 32)
		to, toErr := strconv.ParseUint(last, 10, 32)
		if fromErr != nil || toErr != nil || to < from || to >= most {
			return nil, fmt.Errorf("%q: %w: it is a list of numbers and ranges, as 0-2,5", part, container.ErrInvalid)
		}
		for n := from; n <= to; n++ {
			numbers[int(n)] = true
		}
	}
	return numbers, nil
}
