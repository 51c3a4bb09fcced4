package v1

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"berth/container"
)

func TestUnmarshal(t *testing.T) {
	tests := []struct {
		name string
		text string
		want proto.Message
	}{
		{"space around", " \n{ \"value\" :\t\"web\" } \n", &ContainerID{Value: proto.String("web")}},
		{"message in message", `{"value":"c","parent":{"value":"b","parent":{"value":"a"}}}`,
			&ContainerID{Value: proto.String("c"), Parent: &ContainerID{Value: proto.String("b"), Parent: &ContainerID{Value: proto.String("a")}}}},
		{"empty message is set", `{"tty_info":{},"type":"MESOS"}`, &ContainerInfo{Type: ContainerInfo_MESOS.Enum(), TtyInfo: &TTYInfo{}}},
		{"default is not set", `{}`, &CommandInfo{}},
		{"zero values are set", `{"shell":false,"value":"","arguments":[""]}`,
			&CommandInfo{Shell: proto.Bool(false), Value: proto.String(""), Arguments: []string{""}}},
		{"escapes", `{"value":"A\u00e9\ud83d\ude00\n\u0000"}`, &ContainerID{Value: proto.String("Aé😀\n\x00")}},
		{"camel case is unknown", `{"containerPath":"/a","container_path":"/b","mode":"RO"}`,
			&Volume{ContainerPath: proto.String("/b"), Mode: Volume_RO.Enum()}},

		{"unknown fields of any kind", `{"a":1,"b":"x","c":null,"d":true,"e":[1,[{"value":2}],{}],"f":{"g":{"value":[]}},"value":"web","h":[]}`,
			&ContainerID{Value: proto.String("web")}},

		{"null is unset", `{"value":null,"arguments":null,"environment":null,"shell":null}`, &CommandInfo{}},
		{"null map is unset", `{"limits":null}`, &ContainerConfig{}},

		{"enum by name", `{"type":"RLMT_NOFILE"}`, &RLimitInfo_RLimit{Type: RLimitInfo_RLimit_RLMT_NOFILE.Enum()}},
		{"unknown enum name is unset", `{"type":"RLMT_NEW","hard":1}`, &RLimitInfo_RLimit{Hard: proto.Uint64(1)}},
		{"enum names in a list", `{"capabilities":["KILL","CHOWN"]}`,
			&CapabilityInfo{Capabilities: []CapabilityInfo_Capability{CapabilityInfo_KILL, CapabilityInfo_CHOWN}}},
		{"empty enum name", `{"ipc_mode":""}`, &LinuxInfo{}},

		{"numbers", `{"timestamp":1.5,"processes":4294967295,"mem_rss_bytes":18446744073709551615}`,
			&ResourceStatistics{Timestamp: proto.Float64(1.5), Processes: proto.Uint32(math.MaxUint32), MemRssBytes: proto.Uint64(math.MaxUint64)}},
		{"numbers as strings", `{"timestamp":"-1.5e3","processes":"4294967295","mem_rss_bytes":"18446744073709551615"}`,
			&ResourceStatistics{Timestamp: proto.Float64(-1500), Processes: proto.Uint32(math.MaxUint32), MemRssBytes: proto.Uint64(math.MaxUint64)}},
		{"int64 keeps its digits", `{"nanoseconds":-9223372036854775807}`, &TimeInfo{Nanoseconds: proto.Int64(-math.MaxInt64)}},
		{"int64 as string", `{"nanoseconds":"9007199254740993"}`, &TimeInfo{Nanoseconds: proto.Int64(1<<53 + 1)}},
		{"int32 at its end", `{"nlink":-2147483648,"path":"/"}`, &FileInfo{Path: proto.String("/"), Nlink: proto.Int32(math.MinInt32)}},
		{"integer written as double", `{"nanoseconds":5e9}`, &DurationInfo{Nanoseconds: proto.Int64(5e9)}},
		{"integer with a point", `{"rows":24.0,"columns":"8.0e1"}`, &TTYInfo_WindowSize{Rows: proto.Uint32(24), Columns: proto.Uint32(80)}},
		{"double without a point", `{"value":2}`, &Value_Scalar{Value: proto.Float64(2)}},
		{"infinity", `{"value":"Infinity"}`, &Value_Scalar{Value: proto.Float64(math.Inf(1))}},
		{"negative infinity", `{"value":"-Infinity"}`, &Value_Scalar{Value: proto.Float64(math.Inf(-1))}},

		{"boolean", `{"read":true,"write":false}`, &DeviceAccess_Access{Read: proto.Bool(true), Write: proto.Bool(false)}},
		{"boolean as string", `{"read":"true","write":"false"}`, &DeviceAccess_Access{Read: proto.Bool(true), Write: proto.Bool(false)}},

		{"bytes", `{"data":"aGkK/w=="}`, &Secret_Value{Data: []byte("hi\n\xff")}},
		{"no bytes", `{"data":""}`, &Secret_Value{Data: []byte{}}},

		{"map of messages", `{"limits":{"cpus":{"value":1},"mem":{"value":"Infinity"}}}`,
			&ContainerConfig{Limits: map[string]*Value_Scalar{"cpus": {Value: proto.Float64(1)}, "mem": {Value: proto.Float64(math.Inf(1))}}}},
		{"map of strings", `{"volume_id":"v","volume_capability":{"mount":{},"access_mode":{"mode":"SINGLE_NODE_WRITER"}},"volume_context":{"":"a","k":""}}`,
			&Volume_Source_CSIVolume_StaticProvisioning{
				VolumeId: proto.String("v"),
				VolumeCapability: &Volume_Source_CSIVolume_VolumeCapability{
					AccessType: &Volume_Source_CSIVolume_VolumeCapability_Mount{Mount: &Volume_Source_CSIVolume_VolumeCapability_MountVolume{}},
					AccessMode: &Volume_Source_CSIVolume_VolumeCapability_AccessMode{
						Mode: Volume_Source_CSIVolume_VolumeCapability_AccessMode_SINGLE_NODE_WRITER.Enum(),
					},
				},
				VolumeContext: map[string]string{"": "a", "k": ""},
			}},
		{"empty list and map", `{"resources":[],"limits":{}}`, &ContainerConfig{}},
		{"a hundred levels", strings.Repeat(`{"value":"x","parent":`, maxDepth-1) + `{"value":"x"}` + strings.Repeat("}", maxDepth-1), nested(maxDepth)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := test.want.ProtoReflect().New().Interface()
			if err := Unmarshal([]byte(test.text), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// nested returns an ID of so many levels.
func nested(levels int) *ContainerID {
	id := &ContainerID{Value: proto.String("x")}
	for range levels - 1 {
		id = &ContainerID{Value: proto.String("x"), Parent: id}
	}
	return id
}

func TestUnmarshalErrors(t *testing.T) {
	tests := []struct {
		name string
		text string
		into proto.Message
		want string
	}{
		{"empty", ``, &CommandInfo{}, "invalid: the JSON text ends too early"},
		{"cut short", `{"arguments":["a"`, &CommandInfo{}, "arguments: invalid: the JSON text ends too early"},
		{"cut short in unknown field", `{"x":[[`, &CommandInfo{}, "invalid: the JSON text ends too early"},
		{"not JSON", `{"value" "x"}`, &CommandInfo{}, `value: invalid: after byte 9: invalid character '"' after object key`},
		{"bare word", `{"value":Infinity}`, &Value_Scalar{}, `value: invalid: after byte 9: invalid character 'I' looking for beginning of value`},
		{"comma at the end", `{"arguments":["a",]}`, &CommandInfo{}, `arguments: invalid: after byte 18: invalid character ']' looking for beginning of value`},
		{"two objects", `{} {}`, &CommandInfo{}, "invalid: there is more after the object's end at byte 4"},
		{"garbage at the end", `{}x`, &CommandInfo{}, "invalid: there is more after the object's end at byte 2"},
		{"not UTF-8", "{\"value\":\"a\xff\"}", &CommandInfo{}, "invalid: the text is not UTF-8"},
		{"no object", `["a"]`, &CommandInfo{}, "invalid: want an object, got an array"},
		{"null", `null`, &CommandInfo{}, "invalid: want an object, got null"},

		{"required field missing", `{"type":"MESOS","volumes":[{"container_path":"/a","mode":"RO"},{"container_path":"/b"}]}`, &ContainerInfo{},
			"volumes[1].mode: invalid: required, but missing"},
		{"required field null", `{"value":null}`, &ContainerID{}, "value: invalid: required, but missing"},
		{"required field missing in map", `{"limits":{"cpus":{}}}`, &ContainerConfig{}, `limits["cpus"].value: invalid: required, but missing`},
		{"unknown name in required enum", `{"container_path":"/a","mode":"WO"}`, &Volume{}, `mode: invalid: "WO" is none of RW, RO`},
		{"unknown name in a list of enums", `{"capabilities":["KILL","NEW"]}`, &CapabilityInfo{}, `capabilities[1]: invalid: "NEW" is no Capability`},
		{"long path", `{"container_info":{"type":"MESOS","mesos":{"image":{"type":"DOCKER","docker":{"name":1}}}}}`, &ContainerConfig{},
			"container_info.mesos.image.docker.name: invalid: want string, got a number"},

		{"field twice", `{"value":"a","value":"b"}`, &ContainerID{}, "value: invalid: given twice"},
		{"list twice", `{"arguments":["a"],"arguments":["b"]}`, &CommandInfo{}, "arguments: invalid: given twice"},
		{"map key twice", `{"limits":{"mem":{"value":1},"mem":{"value":2}}}`, &ContainerConfig{}, `limits["mem"]: invalid: given twice`},
		{"two members of a oneof", `{"block":{},"mount":{}}`, &Volume_Source_CSIVolume_VolumeCapability{}, "mount: invalid: excluded by block"},

		{"string for message", `{"parent":"a"}`, &ContainerID{}, "parent: invalid: want an object, got a string"},
		{"object for string", `{"value":{}}`, &ContainerID{}, "value: invalid: want string, got an object"},
		{"number for string", `{"value":1}`, &ContainerID{}, "value: invalid: want string, got a number"},
		{"number for boolean", `{"shell":1}`, &CommandInfo{}, "shell: invalid: want bool, got a number"},
		{"word for boolean", `{"shell":"yes"}`, &CommandInfo{}, "shell: invalid: want bool, got a string"},
		{"number for enum", `{"type":2}`, &ContainerInfo{}, "type: invalid: want enum, got a number"},
		{"boolean for number", `{"value":true}`, &Value_Scalar{}, "value: invalid: want double, got true"},
		{"object for list", `{"arguments":{}}`, &CommandInfo{}, "arguments: invalid: want an array, got an object"},
		{"value for list", `{"arguments":"a"}`, &CommandInfo{}, "arguments: invalid: want an array, got a string"},
		{"list for map", `{"limits":[]}`, &ContainerConfig{}, "limits: invalid: want an object, got an array"},
		{"null in list", `{"arguments":["a",null]}`, &CommandInfo{}, "arguments[1]: invalid: want string, got null"},
		{"null in map", `{"limits":{"mem":null}}`, &ContainerConfig{}, `limits["mem"]: invalid: want an object, got null`},

		{"fraction for integer", `{"rows":1.5}`, &TTYInfo_WindowSize{}, `rows: invalid: "1.5" is no uint32`},
		{"uint32 too large", `{"rows":4294967296}`, &TTYInfo_WindowSize{}, `rows: invalid: "4294967296" is no uint32`},
		{"uint32 negative", `{"rows":-1}`, &TTYInfo_WindowSize{}, `rows: invalid: "-1" is no uint32`},
		{"int64 too large", `{"nanoseconds":9223372036854775808}`, &TimeInfo{}, `nanoseconds: invalid: "9223372036854775808" is no int64`},
		{"int64 too large as double", `{"nanoseconds":1e19}`, &TimeInfo{}, `nanoseconds: invalid: "1e19" is no int64`},
		{"integer infinite", `{"nanoseconds":"Infinity"}`, &TimeInfo{}, `nanoseconds: invalid: "Infinity" is no int64`},
		{"integer with a huge exponent", `{"nanoseconds":1e999999999}`, &TimeInfo{}, `nanoseconds: invalid: "1e999999999" is no int64`},
		{"double too large", `{"value":1e400}`, &Value_Scalar{}, `value: invalid: "1e400" is no double`},
		{"not a number", `{"value":"NaN"}`, &Value_Scalar{}, `value: invalid: "NaN" is no double`},
		{"short infinity", `{"value":"inf"}`, &Value_Scalar{}, `value: invalid: "inf" is no double`},
		{"empty number", `{"value":""}`, &Value_Scalar{}, `value: invalid: "" is no double`},
		{"hexadecimal number", `{"rows":"0x10"}`, &TTYInfo_WindowSize{}, `rows: invalid: "0x10" is no uint32`},
		{"number with space", `{"value":" 1"}`, &Value_Scalar{}, `value: invalid: " 1" is no double`},
		{"text for number is cut", `{"value":"` + strings.Repeat("x", 1000) + `"}`, &Value_Scalar{}, fmt.Sprintf("value: invalid: %q is no double", strings.Repeat("x", 64))},

		{"base64 with a bad character", `{"data":"a-b="}`, &Secret_Value{}, "data: invalid: malformed base64"},
		{"base64 without padding", `{"data":"aGk"}`, &Secret_Value{}, "data: invalid: malformed base64"},
		{"a number that may be a secret is not repeated", `{"principal":"p","secret":12345}`, &Credential{}, "secret: invalid: want string, got a number"},

		{"nesting bomb", strings.Repeat(`{"parent":`, 1e5), &ContainerID{}, strings.Repeat("parent.", maxDepth-1) + "parent: invalid: nested deeper than 100 levels"},
		{"nesting bomb in unknown field", `{"x":` + strings.Repeat(`[`, 1e6), &ContainerID{}, "invalid: nested deeper than 100 levels"},
		{"nesting bomb in place of a string", `{"value":` + strings.Repeat(`[`, 1e6), &ContainerID{}, "value: invalid: want string, got an array"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Unmarshal([]byte(test.text), test.into)
			if err == nil {
				t.Fatalf("no error, want %s", test.want)
			}
			if err.Error() != test.want {
				t.Errorf("got  %s\nwant %s", err, test.want)
			}
			if !errors.Is(err, container.ErrInvalid) {
				t.Error("the error is not of class container.ErrInvalid")
			}
		})
	}
}

func TestUnmarshalReplaces(t *testing.T) {
	command := &CommandInfo{Value: proto.String("old"), Arguments: []string{"old"}}
	if err := Unmarshal([]byte(`{"arguments":["new"]}`), command); err != nil {
		t.Fatal(err)
	}
	if want := (&CommandInfo{Arguments: []string{"new"}}); !proto.Equal(command, want) {
		t.Errorf("got %v, want %v", command, want)
	}
}

func TestMarshal(t *testing.T) {
	tests := []struct {
		name    string
		message proto.Message
		want    string
	}{
		{"empty", &Labels{}, `{}`},
		{"snake case and enums by name", &RLimitInfo{Rlimits: []*RLimitInfo_RLimit{{Type: RLimitInfo_RLimit_RLMT_AS.Enum()}, {}}},
			`{"rlimits":[{"type":"RLMT_AS"},{}]}`},
		{"defaults", &CommandInfo{Uris: []*CommandInfo_URI{{Value: proto.String("u")}}},
			`{"uris":[{"value":"u","extract":true}],"shell":true}`},
		{"default of an enum", &Environment_Variable{Name: proto.String("A")}, `{"name":"A","type":"VALUE"}`},
		{"defaults of numbers", &HealthCheck{},
			`{"delay_seconds":15.0,"interval_seconds":10.0,"timeout_seconds":20.0,"consecutive_failures":3,"grace_period_seconds":10.0}`},
		{"default of false", &ContainerInfo_DockerInfo{Image: proto.String("i")}, `{"image":"i","network":"HOST","privileged":false}`},
		{"share_cgroups", &LinuxInfo{}, `{"share_cgroups":true}`},
		{"default that is overridden", &LinuxInfo{ShareCgroups: proto.Bool(false)}, `{"share_cgroups":false}`},
		{"deprecated default", &Resource{Name: proto.String("cpus"), Type: Value_SCALAR.Enum(), Scalar: &Value_Scalar{Value: proto.Float64(0.5)}},
			`{"name":"cpus","type":"SCALAR","scalar":{"value":0.5}}`},
		{"deprecated and set", &Resource{Name: proto.String("cpus"), Type: Value_SCALAR.Enum(), Role: proto.String("*")},
			`{"name":"cpus","type":"SCALAR","role":"*"}`},
		{"a message that is not set has no defaults", &ContainerInfo{Type: ContainerInfo_MESOS.Enum()}, `{"type":"MESOS"}`},

		{"64-bit integers", &Value_Range{Begin: proto.Uint64(math.MaxUint64), End: proto.Uint64(0)}, `{"begin":18446744073709551615,"end":0}`},
		{"negative", &TimeInfo{Nanoseconds: proto.Int64(math.MinInt64)}, `{"nanoseconds":-9223372036854775808}`},
		{"double", &Value_Scalar{Value: proto.Float64(1)}, `{"value":1.0}`},
		{"large double", &Value_Scalar{Value: proto.Float64(1700000000.25)}, `{"value":1700000000.25}`},
		{"double with exponent", &Value_Scalar{Value: proto.Float64(1e30)}, `{"value":1e+30}`},
		{"infinity", &Value_Scalar{Value: proto.Float64(math.Inf(1))}, `{"value":"Infinity"}`},
		{"negative infinity", &Value_Scalar{Value: proto.Float64(math.Inf(-1))}, `{"value":"-Infinity"}`},
		{"bytes", &Secret_Value{Data: []byte("hi\n\xff")}, `{"data":"aGkK/w=="}`},
		{"no bytes", &Secret_Value{Data: []byte{}}, `{"data":""}`},
		{"string", &ContainerID{Value: proto.String("<a> & \"b\"\\\n\x00é😀")}, `{"value":"<a> & \"b\"\\\n\u0000é😀"}`},
		{"string that is not UTF-8", &ContainerID{Value: proto.String("a\xff")}, `{"value":"a\ufffd"}`},
		{"map in order", &ContainerConfig{Limits: map[string]*Value_Scalar{"mem": {Value: proto.Float64(2)}, "": {Value: proto.Float64(3)}, "cpus": {Value: proto.Float64(1)}}},
			`{"limits":{"":{"value":3.0},"cpus":{"value":1.0},"mem":{"value":2.0}}}`},
		{"empty list and map", &ContainerConfig{Limits: map[string]*Value_Scalar{}, EphemeralVolumes: []string{}}, `{}`},
		{"enum values without a name", &LinuxInfo{
			IpcMode:               LinuxInfo_IpcMode(99).Enum(),
			EffectiveCapabilities: &CapabilityInfo{Capabilities: []CapabilityInfo_Capability{1999, CapabilityInfo_KILL, 2000}},
		}, `{"effective_capabilities":{"capabilities":["KILL"]},"share_cgroups":true}`},
		{"empty element", &Value_Set{Item: []string{"", "a"}}, `{"item":["","a"]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Marshal(test.message)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestMarshalErrors(t *testing.T) {
	tests := []struct {
		name    string
		message proto.Message
		want    string
	}{
		{"required field missing", &ContainerInfo{Type: ContainerInfo_MESOS.Enum(), Volumes: []*Volume{{ContainerPath: proto.String("/a")}}},
			"volumes[0].mode: invalid: required, but missing"},
		{"required enum without a name", &Image{Type: Image_Type(9).Enum()}, "type: invalid: required, but missing"},
		{"not a number", &ContainerConfig{Limits: map[string]*Value_Scalar{"mem": {Value: proto.Float64(math.NaN())}}},
			`limits["mem"].value: invalid: a NaN has no JSON form`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Marshal(test.message)
			if err == nil || err.Error() != test.want || !errors.Is(err, container.ErrInvalid) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

// TestSeed reads the ContainerInfo of the talk that first showed images for the Mesos
// containerizer.
func TestSeed(t *testing.T) {
	text, err := os.ReadFile("testdata/container_info.json")
	if err != nil {
		t.Fatal(err)
	}
	got := &ContainerInfo{}
	if err := Unmarshal(text, got); err != nil {
		t.Fatal(err)
	}
	volume := func(containerPath, hostPath string, mode Volume_Mode) *Volume {
		return &Volume{ContainerPath: &containerPath, HostPath: &hostPath, Mode: &mode}
	}
	want := &ContainerInfo{
		Type: ContainerInfo_MESOS.Enum(),
		Mesos: &ContainerInfo_MesosInfo{Image: &Image{
			Type: Image_APPC.Enum(),
			Appc: &Image_Appc{
				Name:   proto.String("acme.biz/appc/ubuntu1510"),
				Labels: &Labels{Labels: []*Label{{Key: proto.String("version"), Value: proto.String("0.0.1")}}},
			},
		}},
		Volumes: []*Volume{
			volume("/tmp", "tmp", Volume_RW),
			volume("/root", "/root", Volume_RW),
			volume("/etc", "/etc", Volume_RO),
			volume("/var/run", "/var/run", Volume_RW),
			volume("/var/tmp", "/var/tmp", Volume_RW),
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !got.GetMesos().GetImage().GetCached() {
		t.Error("cached is not true by default")
	}
}

// FuzzUnmarshal: whatever the text, the result is a message that can be written and
// read again, or an error of class ErrInvalid.
func FuzzUnmarshal(f *testing.F) {
	seed, err := os.ReadFile("testdata/container_info.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fmt.Sprintf(`{"container_info":%s}`, seed))
	f.Add(string(seed))
	for _, text := range []string{
		`{"command_info":{"shell":"false","value":"/bin/sleep","arguments":["sleep","60"],"uris":[{"value":"http://h/f","cache":true}]}}`,
		`{"resources":[{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":"1","end":2.0}]}}],"limits":{"mem":{"value":"Infinity"}}}`,
		`{"container_info":{"type":"MESOS","linux_info":{"effective_capabilities":{"capabilities":["KILL","NEW"]},"shm_size":16}}}`,
		`{"timestamp":1.7e9,"mem_rss_bytes":18446744073709551615,"blkio_statistics":{"throttling":[{"device":{"major_number":8,"minor_number":0}}]}}`,
		`{"type":"VALUE","value":{"data":"aGkK/w=="},"unknown":[null,{"a":[]}]}`,
		`{"static_provisioning":{"volume_id":"v","volume_capability":{"block":{},"access_mode":{"mode":"SINGLE_NODE_WRITER"}},"volume_context":{"k":"v"}}}`,
		`{"value":"\ud800\uFFFD\u0000"}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range []proto.Message{
			&ContainerConfig{}, &ContainerInfo{}, &ResourceStatistics{}, &Secret{}, &Volume_Source_CSIVolume{}, &ContainerID{},
		} {
			if err := Unmarshal([]byte(text), m); err != nil {
				if !errors.Is(err, container.ErrInvalid) {
					t.Errorf("%T: %v: not of class ErrInvalid", m, err)
				}
				continue
			}
			if !json.Valid([]byte(text)) {
				t.Errorf("%T: accepted what is not JSON", m)
			}

			wire, err := proto.Marshal(m)
			if err != nil {
				t.Fatalf("%T: %v", m, err)
			}
			again := m.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(wire, again); err != nil || !proto.Equal(m, again) {
				t.Errorf("%T: not the same after a way over the wire: %v", m, err)
			}

			// Not the same message but the same text: the defaults are set the second time.
			first, err := Marshal(m)
			if err != nil {
				t.Fatalf("%T: %v", m, err)
			}
			if err := Unmarshal(first, again); err != nil {
				t.Fatalf("%T: %v in the text that Marshal made: %s", m, err, first)
			}
			if second, err := Marshal(again); err != nil || string(second) != string(first) {
				t.Errorf("%T: %v\n%s\n%s", m, err, first, second)
			}
		}
	})
}
