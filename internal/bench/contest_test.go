//go:build linux

package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

// contest is work that several can do.
type contest struct {
	title      string
	disk       string // a directory of the file system that the work is done on
	per        int    // operations in one measurement, if more than one
	rounds     int    // how often each contender is measured; 5 unless it says more, 3 with -short
	contenders []contender
}

// contender is one way to do the work of a contest.
type contender struct {
	name  string
	needs []string // programs; without them it does not take part
	// prepare returns the work to be measured, and how to clean up.
	prepare func(b *testing.B) (work work, clean func())
}

// work is what is measured. It returns the memory of its largest process, in KiB, if it
// consists of processes.
type work func() (maxRSS int64, err error)

// programs is the work of running commands one after the other.
func programs(commands ...[]string) work {
	return func() (maxRSS int64, err error) {
		for _, args := range commands {
			cmd := exec.Command(args[0], args[1:]...)
			var output bytes.Buffer
			cmd.Stdout, cmd.Stderr = &output, &output
			if err := cmd.Run(); err != nil {
				return 0, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, output.String())
			}
			maxRSS = max(maxRSS, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
		}
		return maxRSS, nil
	}
}

// times is the work of doing something n times in this process.
func times(n int, do func() error) work {
	return func() (int64, error) {
		for range n {
			if err := do(); err != nil {
				return 0, err
			}
		}
		return 0, nil
	}
}

// sample is one measurement.
type sample struct {
	wall   time.Duration // of one operation
	maxRSS int64
}

// run measures the contenders in turn and reports each one's median, and by how much the
// first one takes longer.
func (c contest) run(b *testing.B) {
	b.Helper()
	c.per, c.rounds = max(c.per, 1), max(c.rounds, 5)
	if testing.Short() {
		c.rounds = 3
	}
	r := result{contest: c, samples: make(map[string][]sample)}
	r.contenders = slices.DeleteFunc(c.contenders, func(c contender) bool {
		for _, program := range c.needs {
			if _, err := exec.LookPath(program); err != nil {
				r.absent = append(r.absent, fmt.Sprintf("%s does not take part: %s is not installed", c.name, program))
				return true
			}
		}
		return false
	})
	for b.Loop() {
		first := r.contenders[0].name
		r.contenders = slices.DeleteFunc(r.contenders, func(one contender) bool { // this round warms up
			_, err := c.measure(b, one)
			if err != nil && one.name == first {
				b.Fatal(err)
			}
			if err != nil {
				r.absent = append(r.absent, fmt.Sprintf("%s does not take part, it fails here: %v", one.name, err))
			}
			return err != nil
		})
		for range c.rounds {
			for _, one := range r.contenders {
				s, err := c.measure(b, one)
				if err != nil {
					b.Fatal(err)
				}
				r.samples[one.name] = append(r.samples[one.name], s)
			}
		}
	}
	r.report(b)
}

func (c contest) measure(b *testing.B, one contender) (s sample, err error) {
	b.Helper()
	work, clean := one.prepare(b)
	defer clean()
	c.settle(b)
	began := time.Now()
	s.maxRSS, err = work()
	s.wall = time.Since(began) / time.Duration(c.per)
	return s, err
}

// settle writes what the disk of the contest has in memory: what others left is not
// the next contender's to wait for.
func (c contest) settle(b *testing.B) {
	b.Helper()
	if err := syncfs(c.disk); err != nil {
		b.Fatal(err)
	}
}

func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}

// result is what came out of a contest.
type result struct {
	contest
	absent  []string // who does not take part, and why
	samples map[string][]sample
}

// tables are all results so far. They are printed together at the end, after the lines
// that testing prints for each benchmark.
var tables bytes.Buffer

func TestMain(m *testing.M) {
	code := m.Run()
	if _, err := io.Copy(os.Stdout, &tables); err != nil {
		code = 1
	}
	os.Exit(code)
}

func (r result) report(b *testing.B) {
	table := tabwriter.NewWriter(&tables, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\n%s\n%d rounds\tmin\tmedian\tmax\tfirst/this\tmax RSS\t\n", r.title, r.rounds)
	first := walls(r.samples[r.contenders[0].name])
	for _, one := range r.contenders {
		all := walls(r.samples[one.name])
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", one.name, short(slices.Min(all)), short(median(all)), short(slices.Max(all)),
			fmt.Sprintf("%.2f", ratio(first, all)), memory(r.samples[one.name]))
		b.ReportMetric(float64(median(all).Microseconds())/1000, strings.ReplaceAll(one.name, " ", "-")+"-ms")
	}
	table.Flush()
	if err := r.draw(); err != nil {
		b.Error(err)
	}
	for _, why := range r.absent {
		fmt.Fprintf(&tables, "  %s\n", why)
	}
	b.ReportMetric(0, "ns/op") // of all contenders and rounds together: it says nothing
}

func walls(samples []sample) []time.Duration {
	var all []time.Duration
	for _, s := range samples {
		all = append(all, s.wall)
	}
	return all
}

func median[T cmp.Ordered](all []T) T {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// ratio is how many times as long the first one takes: the median of the rounds, in
// each of which both were measured one after the other.
func ratio(first, other []time.Duration) float64 {
	var all []float64
	for i := range first {
		all = append(all, float64(first[i])/float64(other[i]))
	}
	return median(all)
}

// short leaves out the digits that mean nothing.
func short(d time.Duration) string {
	for unit := 10 * time.Second; unit >= 1000; unit /= 10 {
		if d >= unit {
			return d.Round(unit / 1000).String()
		}
	}
	return d.String()
}

func memory(samples []sample) string {
	var most int64
	for _, s := range samples {
		most = max(most, s.maxRSS)
	}
	var own syscall.Rusage
	switch err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); {
	case most == 0 || err != nil:
		return "-"
	case most <= own.Maxrss:
		// A process begins as a copy of the one that starts it, and that counts.
		return fmt.Sprintf("< %d MB", own.Maxrss>>10)
	}
	return fmt.Sprintf("%d MB", most>>10)
}

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
	if err := mounttest.DetachBelow(dir); err != nil {
		b.Fatal(err)
	}
}

func nothing() {}
