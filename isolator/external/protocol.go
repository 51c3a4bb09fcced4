//go:build linux

package external

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/alone"
	"berth/internal/strictjson"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
)

// version is that of the protocol.
const version = 1

// phase is what an executable is asked to do.
type phase string

const (
	describe phase = "describe"
	prepare  phase = "prepare"
	isolate  phase = "isolate"
	update   phase = "update"
	usage    phase = "usage"
	recovery phase = "recover"
	cleanup  phase = "cleanup"
)

// taken are the phases that an executable may take part in, besides describe.
var taken = []phase{prepare, isolate, update, usage, recovery, cleanup}

// request is what an executable reads.
type request struct {
	Version     int             `json:"version"`
	Phase       phase           `json:"phase"`
	ContainerID string          `json:"container_id,omitempty"`
	Config      json.RawMessage `json:"config,omitempty"`
	Pid         int             `json:"pid,omitempty"`
	Containers  []living        `json:"containers,omitempty"`
}

// living is a container that was taken up again.
type living struct {
	ContainerID string          `json:"container_id"`
	Config      json.RawMessage `json:"config"`
}

// answer is what an executable may answer to a request of some phase.
type answer interface {
	// said is the error in the answer.
	said() *failure
}

// nothing is the answer to phases that return nothing.
type nothing struct {
	Error *failure `json:"error"`
}

func (n *nothing) said() *failure { return n.Error }

// failure is an error of the executable.
type failure struct {
	Class   string `json:"class"`
	Message string `json:"message"`
}

// classes are those of package container, by their names in an answer.
var classes = map[string]error{
	"not_found":           container.ErrNotFound,
	"exists":              container.ErrExists,
	"invalid":             container.ErrInvalid,
	"failed_precondition": container.ErrFailedPrecondition,
	"not_supported":       container.ErrNotSupported,
	"unavailable":         container.ErrUnavailable,
	"denied":              container.ErrDenied,
}

func (f *failure) err() error {
	class, ok := classes[f.Class]
	switch {
	case f.Message == "":
		return fmt.Errorf("%w: its error has no message", container.ErrInvalid)
	case f.Class == "":
		return fmt.Errorf("%s", alone.OneLine(f.Message))
	case !ok:
		return fmt.Errorf("%w: its error has the unknown class %q, and the message %s", container.ErrInvalid, f.Class, alone.OneLine(f.Message))
	}
	return fmt.Errorf("%w: %s", class, alone.OneLine(f.Message))
}

// description is the answer to describe.
type description struct {
	nothing
	Version int     `json:"version"`
	Phases  []phase `json:"phases"`
}

func (d *description) check() error {
	if d.Version != version {
		return fmt.Errorf("%w: it speaks version %d of the protocol, berth speaks %d", container.ErrNotSupported, d.Version, version)
	}
	for _, p := range d.Phases {
		if !slices.Contains(taken, p) {
			return fmt.Errorf("%w: it takes part in the phase %q; known are %q", container.ErrNotSupported, p, taken)
		}
	}
	return nil
}

// part is the answer to prepare.
type part struct {
	nothing
	Environment       []variable           `json:"environment"`
	Mounts            []mount              `json:"mounts"`
	MaskedPaths       []string             `json:"masked_paths"`
	ReadOnlyPaths     []string             `json:"read_only_paths"`
	Namespaces        []launcher.Namespace `json:"namespaces"`
	CgroupControllers []string             `json:"cgroup_controllers"`
}

type variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// mount is a volume, in the words of the API, whose host_path is absolute.
type mount struct {
	ContainerPath string   `json:"container_path"`
	HostPath      string   `json:"host_path"`
	Mode          string   `json:"mode"`
	Options       []string `json:"options"`
}

var mountOptions = map[string]plan.Flags{"nosuid": plan.NoSuid, "nodev": plan.NoDev, "noexec": plan.NoExec}

var namespaces = []launcher.Namespace{launcher.Mount, launcher.PID, launcher.IPC, launcher.UTS, launcher.Network}

func controllerName(s string) bool {
	return s != "" && s[0] >= 'a' && strings.Trim(s, lettersAndDigits+"_") == ""
}

// launchInfo checks the answer. Every error is of class ErrInvalid.
func (p *part) launchInfo(config *v1.ContainerConfig, sandboxDirectory string) (*isolator.LaunchInfo, error) {
	info := &isolator.LaunchInfo{Namespaces: p.Namespaces, Controllers: p.CgroupControllers, Masked: p.MaskedPaths, ReadOnly: p.ReadOnlyPaths}
	for _, v := range p.Environment {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || strings.Contains(v.Value, "\x00") {
			return nil, refuse("no environment has the variable %q with the value %q", v.Name, v.Value)
		}
		info.Env = append(info.Env, v.Name+"="+v.Value)
	}
	for _, m := range p.Mounts {
		volume, err := m.volume(config, sandboxDirectory)
		if err != nil {
			return nil, err
		}
		info.Volumes = append(info.Volumes, volume)
	}
	for _, where := range slices.Concat(p.MaskedPaths, p.ReadOnlyPaths) {
		if !path.IsAbs(where) || path.Clean(where) != where || where == "/" || strings.Contains(where, "\x00") {
			return nil, refuse("the path %q is not absolute and clean, or it is the root", where)
		}
	}
	for _, ns := range p.Namespaces {
		if !slices.Contains(namespaces, ns) {
			return nil, refuse("the namespace %q; known are %q", ns, namespaces)
		}
	}
	for _, name := range p.CgroupControllers {
		if !controllerName(name) {
			return nil, refuse("%q is not the name of a cgroup controller", name)
		}
	}
	if len(info.Volumes)+len(info.Masked)+len(info.ReadOnly) > 0 && !slices.Contains(info.Namespaces, launcher.Mount) {
		info.Namespaces = append(info.Namespaces, launcher.Mount) // never the host's
	}
	return info, nil
}

// volume obeys the rules of all volumes, and its host_path is the host's.
func (m mount) volume(config *v1.ContainerConfig, sandboxDirectory string) (plan.Mount, error) {
	mode, ok := v1.Volume_Mode_value[m.Mode]
	if !ok {
		return plan.Mount{}, refuse("the mount at %q has the mode %q; it is RO or RW", m.ContainerPath, m.Mode)
	}
	if !path.IsAbs(m.HostPath) || path.Clean(m.HostPath) != m.HostPath {
		return plan.Mount{}, refuse("the mount at %q has the host_path %q, which is not absolute and clean", m.ContainerPath, m.HostPath)
	}
	v := &v1.Volume{ContainerPath: &m.ContainerPath, HostPath: &m.HostPath, Mode: v1.Volume_Mode(mode).Enum()}
	if err := isolator.CheckVolumes(&v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Volumes: []*v1.Volume{v}}}); err != nil {
		return plan.Mount{}, err
	}
	made, err := isolator.VolumeMount(config, sandboxDirectory, v)
	if err != nil {
		return plan.Mount{}, err
	}
	made.Source = m.HostPath
	for _, option := range m.Options {
		flag, ok := mountOptions[option]
		if !ok {
			return plan.Mount{}, refuse("the mount at %q has the option %q; known are nodev, noexec and nosuid", m.ContainerPath, option)
		}
		made.Flags |= flag
	}
	return made, nil
}

// measured is the answer to usage.
type measured struct {
	nothing
	Statistics json.RawMessage `json:"statistics"`
}

// addTo adds the statistics to those of other isolators. Every error is of class
// ErrInvalid.
func (m *measured) addTo(to *v1.ResourceStatistics) error {
	if m.Statistics == nil {
		return nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(m.Statistics, &members); err != nil {
		return refuse("its statistics: %v", err)
	}
	known := to.ProtoReflect().Descriptor().Fields()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		field := known.ByTextName(name)
		switch {
		case field == nil:
			return refuse("ResourceStatistics has no member %q", name)
		case to.ProtoReflect().Has(field):
			return refuse("its statistics have %s, which berth or another isolator has measured", name)
		}
	}
	members["timestamp"] = json.RawMessage("0") // which the message has to have
	data, err := json.Marshal(members)
	if err != nil {
		return err
	}
	var own v1.ResourceStatistics
	if err := v1.Unmarshal(data, &own); err != nil {
		return fmt.Errorf("its statistics: %w", err)
	}
	own.Timestamp = nil
	proto.Merge(to, &own)
	return nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", container.ErrInvalid, fmt.Sprintf(format, args...))
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 1 << 20

// decode reads an answer; none at all says nothing. A member that berth does not know is
// refused: it might be what the container's isolation depends on.
func decode(body []byte, a answer) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if err := strictjson.Decode(body, maxAnswer, a); err != nil {
		return err
	}
	known := json.NewDecoder(bytes.NewReader(body))
	known.DisallowUnknownFields()
	if err := known.Decode(a); err != nil {
		return refuse("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}
