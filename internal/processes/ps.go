package processes

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parsePS reads what ps prints of psColumns in the locale C.
func parsePS(text string, visit func(Process)) error {
	for line := range strings.Lines(text) {
		p, err := parsePSLine(strings.Fields(line))
		if err != nil {
			return fmt.Errorf("ps printed %q: %w", strings.TrimSpace(line), err)
		}
		visit(p)
	}
	return nil
}

func parsePSLine(fields []string) (p Process, err error) {
	const blanksInStart = 5
	if len(fields) != 7+blanksInStart {
		return p, fmt.Errorf("%d words, not %d", len(fields), 7+blanksInStart)
	}
	for i, to := range []*int{&p.Pid, &p.Parent, &p.Group} {
		if *to, err = strconv.Atoi(fields[i]); err != nil {
			return p, err
		}
	}
	p.Dead = strings.HasPrefix(fields[3], "Z")
	kilobytes, err := strconv.ParseUint(fields[4], 10, 54)
	if err != nil {
		return p, err
	}
	p.RSS = kilobytes << 10
	if p.User, err = parseTime(fields[5]); err != nil {
		return p, err
	}
	all, err := parseTime(fields[6])
	if err != nil {
		return p, err
	}
	p.System = all - p.User
	start, err := time.Parse(time.ANSIC, strings.Join(fields[7:], " "))
	p.Start = start.Unix()
	return p, err
}

// parseTime reads [[DAYS-]HOURS:]MINUTES:SECONDS[.FRACTION].
func parseTime(text string) (time.Duration, error) {
	days, rest, ok := strings.Cut(text, "-")
	if !ok {
		days, rest = "0", text
	}
	total, err := strconv.ParseFloat(days, 64)
	if err != nil {
		return 0, err
	}
	parts := strings.Split(rest, ":")
	if len(parts) > 3 {
		return 0, fmt.Errorf("%q is no time", text)
	}
	if len(parts) == 3 {
		total *= 24
	} else {
		total *= 24 * 60
	}
	for i, part := range parts {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return 0, err
		}
		if i > 0 {
			total *= 60
		}
		total += n
	}
	return time.Duration(total * float64(time.Second)), nil
}
