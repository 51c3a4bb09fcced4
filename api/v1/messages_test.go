package v1

import (
	"bufio"
	"cmp"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"
)

// facts reads testdata/messages.txt: the lines below each message and enum, by name.
func facts(t *testing.T) map[string][]string {
	t.Helper()
	file, err := os.Open("testdata/messages.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found, name := map[string][]string{}, ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "":
		case line[0] == '\t':
			found[name] = append(found[name], trimmed)
		default:
			name = trimmed
			found[name] = nil
		}
	}
	return found
}

// TestMessages compares every message and every enum with the facts, in both
// directions: none is missing, none is added unseen.
func TestMessages(t *testing.T) {
	described := map[string][]string{}
	for _, pkg := range []protoreflect.FullName{"mesos.v1", "mesos.v1.agent", "mesos.slave"} {
		protoregistry.GlobalFiles.RangeFilesByPackage(pkg, func(file protoreflect.FileDescriptor) bool {
			describe(described, file)
			return true
		})
	}
	if diff := gocmp.Diff(facts(t), described); diff != "" {
		t.Errorf("-facts +proto files:\n%s", diff)
	}
}

// describe adds what scope (a file or a message) contains, in the form of the facts.
func describe(found map[string][]string, scope interface {
	Messages() protoreflect.MessageDescriptors
	Enums() protoreflect.EnumDescriptors
}) {
	type line struct {
		number int
		text   string
	}
	add := func(name protoreflect.FullName, lines []line) {
		slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.number, b.number) })
		found[string(name)] = nil
		for _, line := range lines {
			found[string(name)] = append(found[string(name)], line.text)
		}
	}
	for i := range scope.Messages().Len() {
		message := scope.Messages().Get(i)
		if message.IsMapEntry() {
			continue
		}
		var lines []line
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			lines = append(lines, line{int(field.Number()), describeField(field)})
		}
		add(message.FullName(), lines)
		describe(found, message)
	}
	for i := range scope.Enums().Len() {
		enum := scope.Enums().Get(i)
		var lines []line
		for i := range enum.Values().Len() {
			value := enum.Values().Get(i)
			lines = append(lines, line{int(value.Number()), fmt.Sprintf("%s %d", value.Name(), value.Number())})
		}
		add(enum.FullName(), lines)
	}
}

func isDeprecated(field protoreflect.FieldDescriptor) bool {
	return field.Options().(*descriptorpb.FieldOptions).GetDeprecated()
}

func TestOneDefaultIsDeprecated(t *testing.T) {
	var found []protoreflect.FullName
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			if field := fields.Get(i); field.HasDefault() && strings.HasPrefix(string(field.FullName()), "mesos.") && isDeprecated(field) {
				found = append(found, field.FullName())
			}
		}
		return true
	})
	if !slices.Equal(found, []protoreflect.FullName{deprecatedDefault}) {
		t.Errorf("deprecated fields with defaults are %q", found)
	}
}

func describeField(field protoreflect.FieldDescriptor) string {
	cardinality, typed := field.Cardinality().String(), field
	switch {
	case field.IsMap():
		cardinality, typed = "map", field.MapValue()
	case field.ContainingOneof() != nil:
		cardinality = "oneof"
	}
	kind := typed.Kind().String()
	switch {
	case typed.Message() != nil:
		kind = string(typed.Message().FullName())
	case typed.Enum() != nil:
		kind = string(typed.Enum().FullName())
	}
	text := fmt.Sprintf("%s %d %s %s", field.Name(), field.Number(), cardinality, kind)
	if field.HasDefault() {
		if value := field.DefaultEnumValue(); value != nil {
			text += fmt.Sprintf(" =%s", value.Name())
		} else {
			text += fmt.Sprintf(" =%v", field.Default())
		}
	}
	if isDeprecated(field) {
		text += " deprecated"
	}
	return text
}

// record is a field on the wire: an integer is written as a varint, a float64 as 64
// fixed bits, a string with its length before it. Joined records make a message.
func record(number int, value any) string {
	num := protowire.Number(number)
	switch value := value.(type) {
	case int:
		return record(number, uint64(value))
	case uint64:
		return string(protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), value))
	case float64:
		return string(protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), math.Float64bits(value)))
	case string:
		return string(protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), value))
	}
	panic(fmt.Sprintf("no wire form for %T", value))
}

// TestWire makes the bytes of every field of every message from nothing but the facts,
// and looks whether the generated code finds the value where it belongs.
func TestWire(t *testing.T) {
	samples := map[string]struct{ wire, want any }{
		"bool":   {1, true},
		"int32":  {-2, int32(-2)},
		"uint32": {uint64(math.MaxUint32), uint32(math.MaxUint32)},
		"int64":  {uint64(1 << 63), int64(math.MinInt64)},
		"uint64": {uint64(math.MaxUint64), uint64(math.MaxUint64)},
		"double": {1.5, 1.5},
		"string": {"text", "text"},
		"bytes":  {"\xff\x00", []byte{0xff, 0}},
	}
	facts := facts(t)
	messages := map[string][]string{}
	for name, lines := range facts {
		if len(lines) > 0 && len(strings.Fields(lines[0])) == 2 { // an enum: its last value is the sample
			number, err := strconv.Atoi(strings.Fields(lines[len(lines)-1])[1])
			if err != nil {
				t.Fatal(err)
			}
			samples[name] = struct{ wire, want any }{number, protoreflect.EnumNumber(number)}
		} else {
			messages[name] = lines
			samples[name] = struct{ wire, want any }{"", nil} // one without fields
		}
	}
	for name, lines := range messages {
		typ, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, line := range lines {
			var field, cardinality, kind string
			var number int
			if _, err := fmt.Sscan(line, &field, &number, &cardinality, &kind); err != nil {
				t.Fatalf("%s: %s: %v", name, line, err)
			}
			wire := record(number, samples[kind].wire)
			if cardinality == "map" {
				wire = record(number, record(1, "key")+record(2, samples[kind].wire))
			}
			m := typ.New()
			if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal([]byte(wire), m.Interface()); err != nil {
				t.Errorf("%s: %s: %v", name, line, err)
				continue
			}
			found := m.Descriptor().Fields().ByName(protoreflect.Name(field))
			if found == nil || !m.Has(found) || len(m.GetUnknown()) > 0 {
				t.Errorf("%s: %s: the value did not arrive", name, line)
				continue
			}
			got := m.Get(found)
			switch {
			case found.IsMap():
				got = got.Map().Get(protoreflect.ValueOfString("key").MapKey())
			case found.IsList():
				got = got.List().Get(0)
			}
			if want := samples[kind].want; want != nil && !reflect.DeepEqual(got.Interface(), want) {
				t.Errorf("%s: %s: got %v, want %v", name, line, got, want)
			}
		}
	}
}

// TestExchange reads and writes whole messages in the bytes that a Mesos peer would
// send for them.
func TestExchange(t *testing.T) {
	tests := []struct {
		name    string
		wire    string
		message proto.Message
	}{{
		name: "container",
		wire: record(1, 2) + // type
			record(2, record(1, "/data")+record(3, 2)+ // volumes: container_path, mode
				record(5, record(1, 4)+record(5, record(1, "/srv")+record(2, record(1, 2))))) + // source: type, host_path
			record(4, "web") + // hostname
			record(5, record(1, // mesos.image
				record(1, 2)+record(3, record(1, "alpine:3.20")+ // type, docker.name
					record(3, record(1, 2)+record(3, record(1, "{}"))))+record(4, 0))) + // docker.config, cached
			record(7, record(6, "net1")+record(7, record(1, 8080)+record(2, 80)+record(3, "tcp"))) + // network_infos
			record(8, record(3, record(1, 1013)+record(1, 1040))+record(6, 1)+record(7, 16)) + // linux_info
			record(9, record(1, record(1, 10)+record(2, 2048)+record(3, 1024))) + // rlimit_info
			record(10, record(1, record(1, 24)+record(2, 80))), // tty_info
		message: &ContainerInfo{
			Type: ContainerInfo_MESOS.Enum(),
			Volumes: []*Volume{{
				ContainerPath: proto.String("/data"),
				Mode:          Volume_RO.Enum(),
				Source: &Volume_Source{
					Type: Volume_Source_HOST_PATH.Enum(),
					HostPath: &Volume_Source_HostPath{
						Path:             proto.String("/srv"),
						MountPropagation: &MountPropagation{Mode: MountPropagation_BIDIRECTIONAL.Enum()},
					},
				},
			}},
			Hostname: proto.String("web"),
			Mesos: &ContainerInfo_MesosInfo{Image: &Image{
				Type: Image_DOCKER.Enum(),
				Docker: &Image_Docker{
					Name:   proto.String("alpine:3.20"),
					Config: &Secret{Type: Secret_VALUE.Enum(), Value: &Secret_Value{Data: []byte("{}")}},
				},
				Cached: proto.Bool(false),
			}},
			NetworkInfos: []*NetworkInfo{{
				Name: proto.String("net1"),
				PortMappings: []*NetworkInfo_PortMapping{{
					HostPort: proto.Uint32(8080), ContainerPort: proto.Uint32(80), Protocol: proto.String("tcp"),
				}},
			}},
			LinuxInfo: &LinuxInfo{
				EffectiveCapabilities: &CapabilityInfo{Capabilities: []CapabilityInfo_Capability{
					CapabilityInfo_NET_RAW, CapabilityInfo_CHECKPOINT_RESTORE,
				}},
				IpcMode: LinuxInfo_PRIVATE.Enum(),
				ShmSize: proto.Uint32(16),
			},
			RlimitInfo: &RLimitInfo{Rlimits: []*RLimitInfo_RLimit{{
				Type: RLimitInfo_RLimit_RLMT_NOFILE.Enum(), Hard: proto.Uint64(2048), Soft: proto.Uint64(1024),
			}}},
			TtyInfo: &TTYInfo{WindowSize: &TTYInfo_WindowSize{Rows: proto.Uint32(24), Columns: proto.Uint32(80)}},
		},
	}, {
		name: "container config",
		wire: record(3, "/sandbox") + // directory
			record(4, "nobody") + // user
			record(5, "/rootfs") +
			record(11, record(1, record(1, "http://h/f.tgz")+record(2, 0)+record(4, 1)+record(5, "f"))+ // command_info: uris
				record(2, record(1, record(1, "A")+record(2, "1")))+ // environment
				record(3, "/bin/sleep")+record(6, 0)+record(7, "sleep")+record(7, "60")) + // value, shell, arguments
			record(13, record(1, "ports")+record(2, 1)+record(4, record(1, record(1, 31000)+record(2, 31005)))) + // resources
			record(14, 2) + // container_class
			record(15, "/upper") + // ephemeral_volumes
			record(16, record(1, "mem")+record(2, record(1, math.Inf(1)))), // limits
		message: &ContainerConfig{
			Directory: proto.String("/sandbox"),
			User:      proto.String("nobody"),
			Rootfs:    proto.String("/rootfs"),
			CommandInfo: &CommandInfo{
				Uris: []*CommandInfo_URI{{
					Value: proto.String("http://h/f.tgz"), Executable: proto.Bool(false), Cache: proto.Bool(true), OutputFile: proto.String("f"),
				}},
				Environment: &Environment{Variables: []*Environment_Variable{{Name: proto.String("A"), Value: proto.String("1")}}},
				Value:       proto.String("/bin/sleep"),
				Shell:       proto.Bool(false),
				Arguments:   []string{"sleep", "60"},
			},
			Resources: []*Resource{{
				Name: proto.String("ports"), Type: Value_RANGES.Enum(),
				Ranges: &Value_Ranges{Range: []*Value_Range{{Begin: proto.Uint64(31000), End: proto.Uint64(31005)}}},
			}},
			ContainerClass:   ContainerClass_DEBUG.Enum(),
			EphemeralVolumes: []string{"/upper"},
			Limits:           map[string]*Value_Scalar{"mem": {Value: proto.Float64(math.Inf(1))}},
		},
	}, {
		name: "termination",
		wire: record(2, "Memory limit exceeded") + record(3, 9) + record(4, 3) + record(5, 8) + // message, status, state, reason
			record(6, record(1, "mem")+record(2, 0)+record(3, record(1, 64.0))), // limited_resources
		message: &ContainerTermination{
			Message: proto.String("Memory limit exceeded"),
			Status:  proto.Int32(9),
			State:   TaskState_TASK_FAILED.Enum(),
			Reason:  TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY.Enum(),
			LimitedResources: []*Resource{{
				Name: proto.String("mem"), Type: Value_SCALAR.Enum(), Scalar: &Value_Scalar{Value: proto.Float64(64)},
			}},
		},
	}, {
		name: "statistics",
		wire: record(1, 1.7e9) + record(5, 4096) + record(6, 67108864) + record(36, 8192) + // timestamp, mem_*
			record(43, record(2, record(1, "id1"))+record(3, 100)+record(4, 50)) + // disk_statistics
			record(44, record(3, record(1, record(1, 8)+record(2, 0))+record(2, record(1, 1)+record(2, 7)))) + // blkio_statistics
			record(55, record(1, 32768)+record(2, 33791)), // net_ephemeral_ports
		message: &ResourceStatistics{
			Timestamp:     proto.Float64(1.7e9),
			MemRssBytes:   proto.Uint64(4096),
			MemLimitBytes: proto.Uint64(64 << 20),
			MemTotalBytes: proto.Uint64(8192),
			DiskStatistics: []*DiskStatistics{{
				Persistence: &Resource_DiskInfo_Persistence{Id: proto.String("id1")},
				LimitBytes:  proto.Uint64(100),
				UsedBytes:   proto.Uint64(50),
			}},
			BlkioStatistics: &CgroupInfo_Blkio_Statistics{Throttling: []*CgroupInfo_Blkio_Throttling_Statistics{{
				Device:     &Device_Number{MajorNumber: proto.Uint64(8), MinorNumber: proto.Uint64(0)},
				IoServiced: []*CgroupInfo_Blkio_Value{{Op: CgroupInfo_Blkio_TOTAL.Enum(), Value: proto.Uint64(7)}},
			}}},
			NetEphemeralPorts: &Value_Range{Begin: proto.Uint64(32768), End: proto.Uint64(33791)},
		},
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := test.message.ProtoReflect().New().Interface()
			if err := proto.Unmarshal([]byte(test.wire), got); err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(test.message, got, protocmp.Transform()); diff != "" {
				t.Errorf("read: -want +got:\n%s", diff)
			}
			// Equal bytes, because the fields above stand in the order of their numbers.
			wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(test.message)
			if err != nil {
				t.Fatal(err)
			}
			if string(wire) != test.wire {
				t.Errorf("wrote %x\nwant  %x", wire, test.wire)
			}
		})
	}
}
