package ports

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func given(ranges ...Range) *v1.ContainerConfig {
	r := &v1.Resource{Name: proto.String("ports"), Type: v1.Value_RANGES.Enum(), Ranges: &v1.Value_Ranges{}}
	for _, one := range ranges {
		r.Ranges.Range = append(r.Ranges.Range, &v1.Value_Range{Begin: proto.Uint64(uint64(one.First)), End: proto.Uint64(uint64(one.Last))})
	}
	return &v1.ContainerConfig{Resources: []*v1.Resource{r}}
}

// ourselves: this process is every container.
func ourselves(container.ID) ([]int, error) { return []int{os.Getpid()}, nil }

func TestConformance(t *testing.T) {
	scalar := given()
	scalar.Resources[0].Type = v1.Value_SCALAR.Enum()
	beyond := given(Range{1, 2})
	beyond.Resources[0].Ranges.Range[0].End = proto.Uint64(65536)
	isolatortest.Run(t, New(Options{Processes: ourselves, Interval: time.Millisecond, Log: slog.New(slog.DiscardHandler)}), isolatortest.Requests{
		Good: given(Range{31000, 31005}),
		Bad:  map[string]*v1.ContainerConfig{"no ranges": scalar, "from high to low": given(Range{2, 1}), "beyond the last": beyond},
	})
}

func listen(t *testing.T, network, address string) uint16 {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestALookThatFailsEndsNobody(t *testing.T) {
	listen(t, "tcp4", "127.0.0.1:0")
	id, err := container.ParseID("c")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	looks := 0
	i := New(Options{Interval: time.Millisecond, Enforce: true, Log: slog.New(slog.NewTextHandler(&log, nil)), Processes: func(id container.ID) ([]int, error) {
		if looks++; looks == 1 {
			return nil, errors.New("no file is left to open")
		}
		return ourselves(id)
	}})
	l, err := i.Watch(t.Context(), id)
	if err != nil || l == nil || looks != 2 || !strings.Contains(log.String(), "no file is left") {
		t.Errorf("%+v, %v after %d looks; log %q", l, err, looks, log.String())
	}
}

func TestListeners(t *testing.T) {
	four, six := listen(t, "tcp4", "127.0.0.1:0"), listen(t, "tcp6", "[::1]:0")
	id, err := container.ParseID("c")
	if err != nil {
		t.Fatal(err)
	}
	both := join([]uint16{four, six})
	for name, c := range map[string]struct {
		given    []Range
		isolated []Range
		enforce  bool
		want     string
		log      bool
	}{
		"no ports":                   {nil, nil, true, format(both), false},
		"its own":                    {both, nil, true, "", false},
		"one of two":                 {[]Range{{four, four}}, nil, true, format(join([]uint16{six})), false},
		"outside of what is given":   {nil, []Range{{1, 2}}, true, "", false},
		"none is given to anybody":   {nil, []Range{}, true, "", false},
		"in what is given to others": {nil, []Range{{four, four}}, true, format(join([]uint16{four})), false},
		"not enforced":               {nil, nil, false, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			i := New(Options{Processes: ourselves, Interval: 5 * time.Millisecond, Enforce: c.enforce, Isolated: c.isolated, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if _, err := i.Prepare(t.Context(), &isolator.Container{ID: id, Config: given(c.given...)}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if c.want != "" {
				ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
			}
			defer cancel()
			l, err := i.Watch(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("Container c is listening on unallocated port(s): %s", c.want)
			if (l != nil) != (c.want != "") || l != nil && (l.Message != want || l.Reason != container.ReasonLimitation || l.Resource != "ports") {
				t.Errorf("%+v, want %q", l, want)
			}
			if got := strings.Count(log.String(), "unallocated"); (got == 1) != c.log || got > 1 {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

func TestParseRanges(t *testing.T) {
	for _, text := range []string{"[31000-32000]", "[1-2,4-4]"} {
		if got, err := ParseRanges(text); err != nil || format(got) != text {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "[]", "31000-32000", "[31000]", "[2-1]", "[1-65536]", "[1-2", "[a-b]", "[1-2,]"} {
		if _, err := ParseRanges(text); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
