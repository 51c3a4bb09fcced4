package image

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"berth/container"
)

const goodImageConfig = `{
	"created": "2026-01-02T03:04:05Z", "author": "somebody",
	"architecture": "arm64", "os": "linux", "variant": "v8",
	"config": {
		"User": "1000:100", "Env": ["PATH=/bin", "A="], "Entrypoint": ["/entry"], "Cmd": ["-a", ""],
		"WorkingDir": "/srv", "Labels": {"a": "1", "A": "2"}, "StopSignal": "SIGQUIT",
		"Volumes": {"/data": {}, "/cache": null}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
		"Healthcheck": {"Test": ["CMD", "true"]}, "OnBuild": null
	},
	"rootfs": {"type": "layers", "diff_ids": ["` + digestA + `", "` + digestB + `"]},
	"history": [{"created_by": "sh"}]
}`

func TestParseConfig(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want Config
	}{
		"everything": {goodImageConfig, Config{
			Platform: Platform{OS: "linux", Architecture: "arm64", Variant: "v8"},
			Run: RunConfig{
				User: "1000:100", Env: []string{"PATH=/bin", "A="}, Entrypoint: []string{"/entry"}, Cmd: []string{"-a", ""},
				WorkingDir: "/srv", Labels: map[string]string{"a": "1", "A": "2"}, StopSignal: "SIGQUIT",
				Volumes: []string{"/cache", "/data"}, ExposedPorts: []string{"53/udp", "80/tcp"},
			},
			DiffIDs: []Digest{digestA, digestB},
		}},
		"config missing, which aborted Mesos": {`{"os":"linux","architecture":"amd64"}`, Config{Platform: Platform{OS: "linux", Architecture: "amd64"}}},
		"config null":                         {`{"config":null,"rootfs":null,"os":null}`, Config{}},
		"all of config null":                  {`{"config":{"User":null,"Env":null,"Entrypoint":null,"Cmd":null,"Labels":null,"Volumes":null,"ExposedPorts":null}}`, Config{}},
		"wrong type where nothing is used":    {`{"history":7,"created":[],"config":{"Healthcheck":"x","Domainname":1}}`, Config{}},
		"no type of rootfs":                   {`{"rootfs":{"diff_ids":["` + digestA + `"]}}`, Config{DiffIDs: []Digest{digestA}}},
		"empty":                               {`{}`, Config{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseConfig([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("-want +got\n%s", diff)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	invalid := container.ErrInvalid
	config := func(text string) string { return `{"config":{` + text + `}}` }
	for name, c := range map[string]struct {
		body  string
		class error
		says  string
	}{
		"empty file":                          {"", invalid, "not JSON"},
		"cut off":                             {goodImageConfig[:100], invalid, "not JSON"},
		"a list":                              {"[]", invalid, "array"},
		"more than 4 MiB":                     {`{"x":"` + strings.Repeat("x", 4<<20) + `"}`, invalid, "at most"},
		"a million values":                    {`{"history":[` + strings.Repeat("{},", 1<<20) + `{}]}`, invalid, "values"},
		"Cmd twice, a scanner sees one":       {config(`"Cmd":["a"],"Cmd":["b"]`), invalid, "twice"},
		"Cmd twice in other letters":          {config(`"Cmd":["a"],"cmd":["b"]`), invalid, "twice"},
		"Cmd a word":                          {config(`"Cmd":"sh -c x"`), invalid, "Cmd"},
		"Entrypoint of numbers":               {config(`"Entrypoint":[1]`), invalid, "Entrypoint"},
		"Env an object":                       {config(`"Env":{"A":"1"}`), invalid, "Env"},
		"User a number":                       {config(`"User":0`), invalid, "User"},
		"Labels of numbers":                   {config(`"Labels":{"a":1}`), invalid, "Labels"},
		"Volumes a list":                      {config(`"Volumes":["/data"]`), invalid, "Volumes"},
		"NUL in an argument, to end it":       {config(`"Cmd":["a\u0000b"]`), invalid, "Cmd contains a NUL"},
		"NUL in the environment":              {config(`"Env":["A=1\u0000LD_PRELOAD=x"]`), invalid, "Env contains a NUL"},
		"NUL in a volume":                     {config(`"Volumes":{"/a\u0000":{}}`), invalid, "Volumes contains a NUL"},
		"NUL in the user":                     {config(`"User":"root\u0000"`), invalid, "User contains a NUL"},
		"config a word":                       {`{"config":"x"}`, invalid, "config"},
		"rootfs of another type":              {`{"rootfs":{"type":"squashfs"}}`, invalid, "squashfs"},
		"diff_ids a word":                     {`{"rootfs":{"diff_ids":"` + digestA + `"}}`, invalid, "diff_ids"},
		"diff id that is a path":              {`{"rootfs":{"diff_ids":["../../etc"]}}`, invalid, "digest"},
		"diff id null":                        {`{"rootfs":{"diff_ids":[null]}}`, invalid, "empty"},
		"diff id empty":                       {`{"rootfs":{"diff_ids":[""]}}`, invalid, "empty"},
		"diff id sha512":                      {`{"rootfs":{"diff_ids":["sha512:` + strings.Repeat("a", 128) + `"]}}`, container.ErrNotSupported, "sha512"},
		"1001 diff ids":                       {`{"rootfs":{"diff_ids":[` + strings.Repeat(`"`+digestA+`",`, 1000) + `"` + digestA + `"]}}`, invalid, "1001"},
		"architecture that clears the screen": {`{"architecture":"\u001b[2J"}`, invalid, "platform"},
		"os a list":                           {`{"os":["linux"]}`, invalid, "os"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseConfig([]byte(c.body))
			if !errors.Is(err, c.class) || got != nil {
				t.Fatalf("ParseConfig = %v, %v; want class %v", got, err, c.class)
			}
			if !strings.Contains(err.Error(), c.says) || len(err.Error()) > 600 {
				t.Errorf("the error is %q, want it to say %q", err, c.says)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{goodImageConfig, `{}`, `{"config":null}`, `{"rootfs":{"type":"layers","diff_ids":[]}}`,
		`{"rootfs":{"diff_ids":["` + digestA + `","` + digestA + `"]}}`, // one layer twice
		`{"config":{"User":"12345678901234567890","WorkingDir":"/proc/self/fd/5","StopSignal":"-1","Env":["","=","A"],"Entrypoint":[""]}}`,
		`{"config":{"Labels":{"":"","a":"\u001b[2J","A":"\u0000"},"Volumes":{"/proc":{}}}}`, `{"config":{"Cmd":[null]}}`, `[]`, `{"os":"\ud800"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		config, err := ParseConfig(body)
		if err != nil {
			if !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		printed, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig(printed)
		if err != nil {
			t.Fatalf("%s prints as %s: %v", body, printed, err)
		}
		if diff := cmp.Diff(config, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s prints as %s\n%s", body, printed, diff)
		}
	})
}
