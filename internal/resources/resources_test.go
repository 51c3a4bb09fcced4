package resources

import (
	"errors"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

func scalar(name string, value float64) *v1.Resource {
	return &v1.Resource{Name: proto.String(name), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(value)}}
}

func TestRequested(t *testing.T) {
	ranges := scalar("cpus", 4)
	ranges.Type = v1.Value_RANGES.Enum()
	for _, c := range []struct {
		name      string
		resources []*v1.Resource
		want      float64
		found     bool
	}{
		{"nothing", nil, 0, false},
		{"one", []*v1.Resource{scalar("cpus", 0.5)}, 0.5, true},
		{"the sum of several", []*v1.Resource{scalar("cpus", 1), scalar("mem", 64), scalar("cpus", 0.25)}, 1.25, true},
		{"zero is an amount", []*v1.Resource{scalar("cpus", 0)}, 0, true},
		{"less than a thousandth", []*v1.Resource{scalar("cpus", 0.1), scalar("cpus", 0.2), scalar("cpus", 0.0001)}, 0.3, true},
		{"not a scalar", []*v1.Resource{ranges}, 0, false},
		{"a scalar without a value", []*v1.Resource{{Name: proto.String("cpus"), Type: v1.Value_SCALAR.Enum()}}, 0, true},
		{"no numbers", []*v1.Resource{scalar("cpus", math.NaN()), scalar("cpus", math.Inf(1)), scalar("cpus", math.Inf(-1))}, 0, false},
		{"a number beside NaN", []*v1.Resource{scalar("cpus", math.NaN()), scalar("cpus", 2)}, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, found := Requested(&v1.ContainerConfig{Resources: c.resources}, "cpus")
			if got != c.want || found != c.found {
				t.Errorf("got %v, %v, want %v, %v", got, found, c.want, c.found)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	limits := map[string]*v1.Value_Scalar{}
	for name, value := range map[string]float64{"cpus": 0.5, "zero": 0, "none": math.Inf(1)} {
		limits[name] = &v1.Value_Scalar{Value: proto.Float64(value)}
	}
	config := &v1.ContainerConfig{Limits: limits}
	for _, c := range []struct {
		name  string
		want  float64
		found bool
	}{{"cpus", 0.5, true}, {"zero", 0, true}, {"none", math.Inf(1), false}, {"absent", 0, false}} {
		if got, found := Limit(config, c.name); got != c.want || found != c.found {
			t.Errorf("%s: got %v, %v, want %v, %v", c.name, got, found, c.want, c.found)
		}
	}
	if _, found := Limit(nil, "cpus"); found {
		t.Error("a limit in no configuration")
	}
}

func TestCheck(t *testing.T) {
	ports := &v1.Resource{Name: proto.String("ports"), Type: v1.Value_RANGES.Enum(), Ranges: &v1.Value_Ranges{}}
	ofType := func(name string, of v1.Value_Type) *v1.Resource {
		return &v1.Resource{Name: proto.String(name), Type: of.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(1)}}
	}
	for name, c := range map[string]struct {
		resource *v1.Resource
		words    string
	}{
		"an amount":            {scalar("cpus", 0.5), ""},
		"nothing of it":        {scalar("mem", 0), ""},
		"one that nobody has":  {scalar("bananas", 3), ""},
		"ranges":               {ports, ""},
		"no name":              {scalar("", 1), "no name"},
		"less than nothing":    {scalar("cpus", -1), "-1 is no amount"},
		"no number":            {scalar("mem", math.NaN()), "NaN is no amount"},
		"without end":          {scalar("disk", math.Inf(1)), "+Inf is no amount"},
		"ranges of CPUs":       {ofType("cpus", v1.Value_RANGES), "type SCALAR"},
		"a set of GPUs":        {ofType("gpus", v1.Value_SET), "type SCALAR"},
		"ranges without any":   {ofType("ports", v1.Value_RANGES), "no value of its type"},
		"a set without any":    {ofType("zones", v1.Value_SET), "no value of its type"},
		"a scalar without one": {&v1.Resource{Name: proto.String("cpus"), Type: v1.Value_SCALAR.Enum()}, "no value of its type"},
	} {
		err := Check(&v1.ContainerConfig{Resources: []*v1.Resource{scalar("cpus", 1), c.resource}})
		if c.words == "" && err != nil || c.words != "" && (!errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%s: %v, want %q", name, err, c.words)
		}
	}
}
