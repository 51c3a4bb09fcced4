package registry

import (
	"errors"
	"strconv"
	"strings"
)

// parseContentRange reads "bytes FIRST-LAST/TOTAL". The total is -1 when it is "*".
func parseContentRange(s string) (first, last, total int64, err error) {
	unit, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	span, size, found := strings.Cut(strings.TrimSpace(rest), "/")
	from, to, dash := strings.Cut(span, "-")
	if !strings.EqualFold(unit, "bytes") || !found || !dash {
		return 0, 0, 0, errors.New("it cannot be read")
	}
	total = -1
	if size != "*" {
		total, err = parseOffset(size)
	}
	first, firstErr := parseOffset(from)
	last, lastErr := parseOffset(to)
	if err = errors.Join(err, firstErr, lastErr); err == nil && (first > last || total >= 0 && last >= total) {
		err = errors.New("it contradicts itself")
	}
	return first, last, total, err
}

// parseOffset takes digits only, without a sign.
func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, errors.New("it has no number where one belongs")
	}
	return int64(n), nil
}
