package mount

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"

	"berth/internal/disk"
)

// Below returns the mount points at dir and below it, one for each mount. Their order
// does not say which lies on which. dir is absolute and has no links.
func Below(dir string) ([]string, error) {
	f, err := disk.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	points, err := mountPoints(f)
	if err != nil {
		return nil, err
	}
	var below []string
	for _, point := range points {
		if point == dir || strings.HasPrefix(point, strings.TrimSuffix(dir, "/")+"/") {
			below = append(below, point)
		}
	}
	return below, nil
}

// DetachBelow detaches every mount at dir and below it that a path leads to.
func DetachBelow(dir string) error {
	// One mount may hide others, whose turn comes in the next round.
	for {
		points, err := Below(dir)
		if err != nil {
			return err
		}
		any := false
		var errs []error
		for _, point := range points {
			detached, err := detachTop(point)
			any = any || detached
			errs = append(errs, err)
		}
		if !any {
			return errors.Join(errs...)
		}
	}
}

// mountPoints reads the fifth field of each line of mountinfo (proc(5)).
func mountPoints(table io.Reader) ([]string, error) {
	var points []string
	// Lines have any length: that of an overlay names all its layers.
	for lines := bufio.NewReader(table); ; {
		line, err := lines.ReadString('\n')
		if fields := strings.SplitN(line, " ", 6); len(fields) == 6 {
			points = append(points, unescape(fields[4]))
		}
		if errors.Is(err, io.EOF) {
			return points, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// unescape decodes the octal escapes that the kernel writes for white space,
// backslashes and number signs.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
