package plan

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

// full has something in every field.
func full() Plan {
	return Plan{
		Rootfs: "/work/with a blank and \xff", ReadOnlyRootfs: true, HostMounts: true, EnterMounts: true, Handed: 3, HandedAll: true,
		Mounts: []Mount{
			{Target: "/proc", Source: "proc", SubPath: "1", Type: "proc", Flags: ReadOnly | NoExec, Fixed: true, OfParent: true, Provisioned: true, Replace: true, Options: []Option{{"mode", "755"}, {"flag", ""}},
				Propagation: BothWays, File: true, Content: []byte("\x00\xff")},
			{Target: "/mnt", Source: "/host"},
		},
		Nodes: []Node{{Path: "/dev/null", Mode: 0o020666, Major: 1, Minor: 3}},
		Links: []Link{{Path: "/dev/fd", Target: "/proc/self/fd"}},
		Volumes: []Mount{{Target: "/v", Source: "/host", SubPath: "a/b", Type: "x", Flags: ReadOnly, Fixed: true, OfParent: true, Provisioned: true, Replace: true, Options: []Option{{"a", "b"}},
			Propagation: FromHost, File: true, Content: []byte{1}}},
		Masked: []string{"/proc/kcore"}, ReadOnly: []string{"/proc/sys"},
		Terminal: &Terminal{Kept: true, Multiplexer: "/dev/pts/ptmx", Console: "/dev/console", Rows: 24, Columns: 1<<16 - 1},
		Logs:     &Logs{Outputs: []int{1, 2}, MaxSize: 1 << 40, MaxFiles: 3},
		Input:    true, Tree: true,
		Hostname: "h", Loopback: true, CgroupNamespace: true,
		Command: Command{
			Path: "p\xfe", Args: []string{"p", "", "not UTF-8: \xff\xfe", "\x00"}, Env: []string{"A=\xc3\x28"},
			Dir: "/d\x80", UID: 1<<32 - 1, GID: 7, Groups: []uint32{0, 1<<32 - 1},
			Rlimits: []Rlimit{{"nofile", 100, 200}},
			Confinement: Confinement{
				Capabilities:    &Capabilities{Effective: 1 << 40, Bounding: 1<<41 - 1, Inheritable: 1, Ambient: 2, NoRoot: true},
				NoNewPrivileges: true, Filter: []byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f}, FilterFlags: 2,
				AppArmorProfile: "profile", SELinuxLabel: "u:r:t:s0:c1,c2",
			},
		},
	}
}

func TestThePlanArrivesByteForByte(t *testing.T) {
	var encoded bytes.Buffer
	if err := full().Encode(&encoded); err != nil {
		t.Fatal(err)
	}
	got, err := Decode(&encoded)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, full()) {
		t.Errorf("decoded %+v\nencoded %+v", got, full())
	}
}

// A field that full forgets would not be tested.
func TestFullIsFull(t *testing.T) {
	var check func(path string, v reflect.Value)
	check = func(path string, v reflect.Value) {
		if v.IsZero() {
			t.Errorf("%s is zero", path)
		}
		switch v.Kind() {
		case reflect.Pointer:
			check(path, v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				check(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Slice:
			if v.Len() > 0 && v.Index(0).Kind() == reflect.Struct {
				check(path+"[0]", v.Index(0))
			}
		}
	}
	check("plan", reflect.ValueOf(full()))
}

func TestAPlanOfAnotherVersionIsRefused(t *testing.T) {
	var encoded bytes.Buffer
	e := gob.NewEncoder(&encoded)
	// What follows the version is of an unknown form, so it must not be looked at. Before
	// version 7 it was all of this form.
	if err := errors.Join(e.Encode(Version+1), e.Encode("something else")); err != nil {
		t.Fatal(err)
	}
	_, err := Decode(&encoded)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint("version ", Version+1)) || !strings.Contains(err.Error(), "one build") {
		t.Errorf("error %v: want the version and the remedy", err)
	}
}

func TestAPlanThatIsTooBigIsRefusedOnBothSides(t *testing.T) {
	p := Plan{Command: Command{Args: []string{strings.Repeat("x", maxSize)}}}
	var encoded bytes.Buffer
	if err := p.Encode(&encoded); err == nil || !strings.Contains(err.Error(), "at most") || encoded.Len() > 0 {
		t.Errorf("encoded %d bytes, error %v", encoded.Len(), err)
	}
	c := coder{text: append([]byte(header), 2*Version)}
	c.plan(&p)
	encoded.Write(c.text)
	if _, err := Decode(&encoded); err == nil {
		t.Error("decoded more than the bound")
	}
}

func TestWhatIsNoPlanIsAnError(t *testing.T) {
	var encoded bytes.Buffer
	if err := full().Encode(&encoded); err != nil {
		t.Fatal(err)
	}
	whole := encoded.String()
	for _, text := range []string{"", "{}", "\x00", strings.Repeat("\xff", 100), whole[:5] + strings.Repeat("\xff", 100), whole + "\x00"} {
		if _, err := Decode(strings.NewReader(text)); err == nil {
			t.Errorf("decoded %q", text)
		}
	}
	for size := range len(whole) {
		if _, err := Decode(strings.NewReader(whole[:size])); err == nil {
			t.Errorf("decoded the first %d bytes of %d", size, len(whole))
		}
	}
}

// What a length says must not decide how much memory is taken.
func TestALengthThatIsALieTakesNoMemory(t *testing.T) {
	lie := header + string([]byte{2 * Version, 0, 0, 0, 0, 0}) + strings.Repeat("\xff", 8) + "\x7f" + strings.Repeat("\x00", 100)
	if n := testing.AllocsPerRun(1, func() {
		if _, err := Decode(strings.NewReader(lie)); err == nil {
			t.Error("decoded it")
		}
	}); n > 100 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	var encoded bytes.Buffer
	if err := full().Encode(&encoded); err != nil {
		f.Fatal(err)
	}
	f.Add(encoded.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := p.Encode(&again); err != nil {
			t.Fatal(err)
		}
		if second, err := Decode(&again); err != nil || !reflect.DeepEqual(p, second) {
			t.Errorf("decoded %+v, then %+v, %v", p, second, err)
		}
	})
}

func TestReport(t *testing.T) {
	var encoded bytes.Buffer
	want := Report{Message: "not found", Code: 127}
	if err := want.Encode(&encoded); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeReport(&encoded); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := DecodeReport(&encoded); err != io.EOF {
		t.Errorf("no report: got %v, want io.EOF, which says that the command was executed", err)
	}
}

func TestAControlArrives(t *testing.T) {
	for _, want := range []Control{{}, {CloseInput: true}, {Rows: 1, Columns: 1<<16 - 1}, {Rows: 24<<8 | 1, Columns: 80}} {
		text := want.Encode()
		if len(text) != ControlSize {
			t.Fatalf("%+v has %d bytes", want, len(text))
		}
		if got := DecodeControl([ControlSize]byte(text)); got != want {
			t.Errorf("%+v came as %+v", want, got)
		}
	}
}
