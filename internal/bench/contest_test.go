//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"berth/internal/mount"
)

// rounds is how often each contender is measured.
const rounds = 5

// contender is one way to do the work of a contest.
type contender struct {
	name  string
	needs []string // programs; without them it does not take part
	// prepare returns the commands to be measured together, and how to clean up.
	prepare func(b *testing.B) (commands [][]string, clean func())
}

// sample is one measurement.
type sample struct {
	wall   time.Duration
	maxRSS int64 // KiB, of the largest process
}

// contest measures the contenders in turn and reports each one's median, and its ratio
// to that of the first.
func contest(b *testing.B, contenders []contender) {
	contenders = slices.DeleteFunc(contenders, func(c contender) bool {
		for _, program := range c.needs {
			if _, err := exec.LookPath(program); err != nil {
				b.Logf("%s does not take part: %s is not installed", c.name, program)
				return true
			}
		}
		return false
	})
	samples := make(map[string][]sample)
	for b.Loop() {
		contenders = slices.DeleteFunc(contenders, func(c contender) bool { // this round warms up
			_, err := measure(b, c)
			if err != nil && c.name != contenders[0].name {
				b.Logf("%s does not take part, it fails here: %v", c.name, err)
				return true
			}
			return false
		})
		for range rounds {
			for _, c := range contenders {
				s, err := measure(b, c)
				if err != nil {
					b.Fatal(err)
				}
				samples[c.name] = append(samples[c.name], s)
			}
		}
	}
	report(b, contenders, samples)
}

func measure(b *testing.B, c contender) (s sample, err error) {
	b.Helper()
	commands, clean := c.prepare(b)
	defer clean()
	syscall.Sync() // what others wrote is not this contender's to wait for
	began := time.Now()
	for _, args := range commands {
		cmd := exec.Command(args[0], args[1:]...)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Run(); err != nil {
			return s, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, output.String())
		}
		s.maxRSS = max(s.maxRSS, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	s.wall = time.Since(began)
	return s, nil
}

func report(b *testing.B, contenders []contender, samples map[string][]sample) {
	// To standard output: testing cuts the log of a benchmark after ten lines.
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\nmedian of %d\tmin\tmedian\tmax\tof the first\tmax RSS\t\n", rounds)
	first := median(samples[contenders[0].name])
	for _, c := range contenders {
		all := samples[c.name]
		slices.SortFunc(all, func(x, y sample) int { return int(x.wall - y.wall) })
		m := median(all)
		rss := slices.MaxFunc(all, func(x, y sample) int { return int(x.maxRSS - y.maxRSS) }).maxRSS
		fmt.Fprintf(table, "%s\t%.1f ms\t%.1f ms\t%.1f ms\t%.2f\t%d MB\t\n", c.name, ms(all[0].wall), ms(m), ms(all[len(all)-1].wall),
			float64(m)/float64(first), rss>>10)
		b.ReportMetric(ms(m), strings.ReplaceAll(c.name, " ", "-")+"-ms")
	}
	table.Flush()
}

func median(all []sample) time.Duration {
	walls := make([]time.Duration, len(all))
	for i, s := range all {
		walls[i] = s.wall
	}
	slices.Sort(walls)
	return walls[len(walls)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// freshDir makes a directory that clean removes.
func freshDir(b *testing.B, below, name string) (dir string, clean func()) {
	b.Helper()
	dir, err := os.MkdirTemp(below, name+"-")
	if err != nil {
		b.Fatal(err)
	}
	return dir, func() {
		detach(b, dir)
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
	}
}

// detach removes the mounts that a contender keeps in its directory.
func detach(b *testing.B, dir string) {
	b.Helper()
	if err := mount.DetachBelow(dir); err != nil {
		b.Fatal(err)
	}
}
