package isolator

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

func disk(amount float64, id string) *v1.Resource {
	r := &v1.Resource{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: &amount}}
	if id != "" {
		r.Role = proto.String("web")
		r.Disk = &v1.Resource_DiskInfo{
			Persistence: &v1.Resource_DiskInfo_Persistence{Id: &id},
			Volume:      &v1.Volume{ContainerPath: proto.String("data"), Mode: v1.Volume_RW.Enum()},
		}
	}
	return r
}

func diskLimits(amount float64) map[string]*v1.Value_Scalar {
	return map[string]*v1.Value_Scalar{"disk": {Value: &amount}}
}

func volumeAt(role, id string) string { return "/volumes/" + role + "/" + id }

func TestDisks(t *testing.T) {
	volume := Disk{Directories: []string{"/volumes/web/data"}, Limit: 5 << 20}
	for name, test := range map[string]struct {
		config *v1.ContainerConfig
		want   []Disk
	}{
		"nothing":                 {&v1.ContainerConfig{}, []Disk{{}}},
		"what is written counts":  {&v1.ContainerConfig{Directory: proto.String("/s"), EphemeralVolumes: []string{"/u", "/w"}}, []Disk{{Directories: []string{"/s", "/u", "/w"}}}},
		"a request":               {&v1.ContainerConfig{Resources: []*v1.Resource{disk(10, ""), disk(0.5, "")}}, []Disk{{Limit: 10.5 * mib}}},
		"a limit over it":         {&v1.ContainerConfig{Resources: []*v1.Resource{disk(10, "")}, Limits: diskLimits(20)}, []Disk{{Limit: 20 * mib, Enforced: true}}},
		"an infinite limit":       {&v1.ContainerConfig{Resources: []*v1.Resource{disk(10, "")}, Limits: diskLimits(math.Inf(1))}, []Disk{{}}},
		"a volume is not the own": {&v1.ContainerConfig{Resources: []*v1.Resource{disk(10, ""), disk(5, "data")}}, []Disk{{Limit: 10 * mib}, volume}},
	} {
		got, err := Disks(test.config, volumeAt)
		if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(Disk{}, "Persistence")); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestAmountsOfDiskThatAreNone(t *testing.T) {
	for name, config := range map[string]*v1.ContainerConfig{
		"less than a directory needs": {Limits: diskLimits(0.5)},
		"none at all":                 {Limits: diskLimits(0)},
		"a negative limit":            {Limits: diskLimits(-1)},
		"not a number":                {Limits: diskLimits(math.NaN())},
		"more than there is":          {Limits: diskLimits(1e30)},
		"a negative request":          {Resources: []*v1.Resource{disk(-1, "")}},
		"an infinite request":         {Resources: []*v1.Resource{disk(math.Inf(1), "")}},
		"a volume of half a MiB":      {Resources: []*v1.Resource{disk(0.5, "data")}},
	} {
		if got, err := Disks(config, volumeAt); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
