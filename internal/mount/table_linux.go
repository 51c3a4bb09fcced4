package mount

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
)

// Below returns the mount points at dir and below it, in the order of the mount
// table: a mount comes after the one it lies on. dir is absolute and has no links.
func Below(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
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

// DetachBelow detaches every mount at dir and below it.
func DetachBelow(dir string) error {
	points, err := Below(dir)
	if err != nil {
		return err
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		errs = append(errs, Detach(points[i]))
	}
	return errors.Join(errs...)
}

// mountPoints reads the fifth field of each line of mountinfo (proc(5)).
func mountPoints(table io.Reader) ([]string, error) {
	var points []string
	lines := bufio.NewScanner(table)
	lines.Buffer(nil, 1<<20) // an overlay of 500 layers has a long line
	for lines.Scan() {
		if fields := strings.SplitN(lines.Text(), " ", 6); len(fields) == 6 {
			points = append(points, unescape(fields[4]))
		}
	}
	return points, lines.Err()
}

// unescape decodes the octal escapes that the kernel writes for blanks and
// backslashes.
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
