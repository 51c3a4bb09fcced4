package appc

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/container"
)

const example = `{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/reduce-worker",
	"labels": [{"name": "version", "value": "1.0.0"}, {"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}],
	"app": {"exec": ["/usr/bin/reduce-worker", "--quiet"], "user": "100", "group": "300", "supplementaryGIDs": [400, 500], "workingDirectory": "/opt/work",
		"environment": [{"name": "REDUCE_WORKER_DEBUG", "value": "true"}], "isolators": [{"name": "resource/cpu", "value": {"limit": "20"}}],
		"mountPoints": [{"name": "work", "path": "/var/lib/work", "readOnly": false}], "ports": [{"name": "health", "port": 4000}]},
	"dependencies": [{"imageName": "example.com/reduce-worker-base", "size": 22017258,
		"imageID": "sha512-` + zeros + `", "labels": [{"name": "env", "value": "canary"}]}],
	"pathWhitelist": ["/etc/ca/", "/usr/bin/../bin/reduce-worker"], "annotations": [{"name": "authors", "value": "Carly"}]}`

const zeros = "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"

func TestParseManifest(t *testing.T) {
	m, err := ParseManifest([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := &Manifest{Kind: "ImageManifest", Version: "0.8.11", Name: "example.com/reduce-worker",
		Labels: []Label{{"version", "1.0.0"}, {"os", "linux"}, {"arch", "amd64"}},
		App: &App{Exec: []string{"/usr/bin/reduce-worker", "--quiet"}, User: "100", Group: "300", SupplementaryGIDs: []uint32{400, 500}, WorkingDirectory: "/opt/work",
			Environment: []Variable{{"REDUCE_WORKER_DEBUG", "true"}}},
		Dependencies: []Dependency{{Name: "example.com/reduce-worker-base", ID: ID("sha512-" + zeros),
			Labels: []Label{{"env", "canary"}}, Size: 22017258}},
		PathWhitelist: []string{"/etc/ca", "/usr/bin/reduce-worker"},
		Annotations:   []Label{{"authors", "Carly"}},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
}

func TestParseManifestTakesNullForNothing(t *testing.T) {
	m, err := ParseManifest([]byte(`{"acKind": "ImageManifest", "acVersion": "0.6.1", "name": "a", "labels": null, "dependencies": null,
		"app": {"exec": null, "user": "0", "group": "0", "environment": null}, "pathWhitelist": null, "annotations": null, "new": {"x": [1]}}`))
	if err != nil || m.App == nil || len(m.App.Exec) > 0 {
		t.Fatalf("%+v, %v", m, err)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	make := func(key, value string) string {
		m := map[string]json.RawMessage{"acKind": []byte(`"ImageManifest"`), "acVersion": []byte(`"0.8.11"`), "name": []byte(`"a"`)}
		m[key] = []byte(value)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, c := range map[string]struct {
		text  string
		class error
	}{
		"no JSON":                       {"{", container.ErrInvalid},
		"too long":                      {make("name", `"`+strings.Repeat("a", MaxManifestSize)+`"`), container.ErrInvalid},
		"a key twice":                   {`{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "a", "name": "b"}`, container.ErrInvalid},
		"a pod":                         {make("acKind", `"PodManifest"`), container.ErrNotSupported},
		"no kind":                       {`{"acVersion": "0.8.11", "name": "a"}`, container.ErrNotSupported},
		"no version":                    {`{"acKind": "ImageManifest", "name": "a"}`, container.ErrInvalid},
		"a version that is none":        {make("acVersion", `"1"`), container.ErrInvalid},
		"no name":                       {`{"acKind": "ImageManifest", "acVersion": "0.8.11"}`, container.ErrInvalid},
		"a name that leads upwards":     {make("name", `"a/../b"`), container.ErrInvalid},
		"a name in capitals":            {make("name", `"Example.com/a"`), container.ErrInvalid},
		"a label twice":                 {make("labels", `[{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]`), container.ErrInvalid},
		"a label called name":           {make("labels", `[{"name": "name", "value": "1"}]`), container.ErrInvalid},
		"a label with a NUL":            {make("labels", `[{"name": "a", "value": "\u0000"}]`), container.ErrInvalid},
		"labels of another type":        {make("labels", `{"a": "b"}`), container.ErrInvalid},
		"a dependency without a name":   {make("dependencies", `[{}]`), container.ErrInvalid},
		"a dependency of negative size": {make("dependencies", `[{"imageName": "a", "size": -1}]`), container.ErrInvalid},
		"a dependency with a short id":  {make("dependencies", `[{"imageName": "a", "imageID": "sha512-00"}]`), container.ErrInvalid},
		"too many dependencies": {make("dependencies", "["+strings.TrimSuffix(strings.Repeat(`{"imageName": "a"},`, MaxDependencies+1), ",")+"]"),
			container.ErrInvalid},
		"a whitelist with a relative path": {make("pathWhitelist", `["etc"]`), container.ErrInvalid},
		"an empty program":                 {make("app", `{"exec": [""]}`), container.ErrInvalid},
		"an argument with a NUL":           {make("app", `{"exec": ["a", "b\u0000"]}`), container.ErrInvalid},
		"a user that names a group":        {make("app", `{"user": "a:root"}`), container.ErrInvalid},
		"a negative group":                 {make("app", `{"supplementaryGIDs": [-1]}`), container.ErrInvalid},
		"a group of all bits":              {make("app", `{"supplementaryGIDs": [4294967295]}`), container.ErrInvalid},
		"a group of 20 digits":             {make("app", `{"supplementaryGIDs": [18446744073709551616]}`), container.ErrInvalid},
		"more groups than Linux has": {make("app", `{"supplementaryGIDs": [`+strings.TrimSuffix(strings.Repeat("1,", maxGroups+1), ",")+"]}"),
			container.ErrInvalid},
		"a relative working directory":  {make("app", `{"workingDirectory": "a"}`), container.ErrInvalid},
		"a variable with = in its name": {make("app", `{"environment": [{"name": "A=B", "value": ""}]}`), container.ErrInvalid},
	} {
		if m, err := ParseManifest([]byte(c.text)); !errors.Is(err, c.class) {
			t.Errorf("%s: %+v, %v; want class %v", name, m, err, c.class)
		}
	}
}

func request(t *testing.T, s string) Request {
	t.Helper()
	r, err := ParseRequest(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAccept(t *testing.T) {
	id := ID("sha512-" + zeros)
	host := System{"linux", "amd64"}
	m := &Manifest{Name: "a", Labels: []Label{{"version", "1"}, {"os", "linux"}, {"arch", "amd64"}, {"env", "canary"}}}
	for in, class := range map[string]error{
		"a":                       nil,
		"a,version=1":             nil,
		"a,arch=amd64,env=canary": nil,
		"a@sha512-" + zeros:       nil,
		"b":                       container.ErrInvalid,
		"a,version=2":             container.ErrInvalid,
		"a,missing=1":             container.ErrInvalid,
		"a@sha512-1" + zeros[1:]:  container.ErrInvalid,
		"a,arch=aarch64":          container.ErrInvalid,
	} {
		if err := request(t, in).Accept(m, id, host); !errors.Is(err, class) {
			t.Errorf("%s: %v, want class %v", in, err, class)
		}
	}
	if err := request(t, "a").Accept(m, id, System{"linux", "s390x"}); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("for another system: %v", err)
	}
	if err := request(t, "a").Accept(&Manifest{Name: "a"}, id, host); err != nil {
		t.Errorf("without labels: %v", err)
	}
}

func TestPlace(t *testing.T) {
	host := System{"linux", "amd64"}
	for _, c := range []struct{ template, request, ext, want string }{
		{string(Simple), "example.com/a", "aci", "example.com/a-latest-linux-amd64.aci"},
		{string(Simple), "example.com/a,version=1.0.0,arch=i386", "aci.asc", "example.com/a-1.0.0-linux-i386.aci.asc"},
		{"https://s.example.com/{os}/{arch}/{name}.{ext}?v={version}&env={env}", "b,env=canary", "aci",
			"https://s.example.com/linux/amd64/b.aci?v=latest&env=canary"},
		// Else a signature would be looked for where the image is.
		{"https://x/{name}.{ext}", "b,ext=other", "aci.asc", "https://x/b.aci.asc"},
	} {
		if got, err := Template(c.template).Place(request(t, c.request), host, c.ext); err != nil || got != c.want {
			t.Errorf("%s of %s: %q, %v; want %q", c.template, c.request, got, err, c.want)
		}
	}
	if got, err := Template("https://x/{env}").Place(request(t, "a"), host, "aci"); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("a label that is not stated: %q, %v", got, err)
	}
}

const page = `<!DOCTYPE html><html><head>
		<!-- <meta name="ac-discovery" content="example.com https://comment/{name}"> -->
		<meta charset="utf-8"><link rel=x href=y>
		<META NAME='ac-discovery' content='example.com https://one.example.com/{name}-{version}.{ext}'>
		<meta name="ac-discovery" content="example.com/other https://other.example.com/{name}">
		<meta name="ac-discovery" content="example.com/a https://two.example.com/{name}" />
		<meta name="ac-discovery" content="example.co https://prefix.example.com/">
		<meta name="ac-discovery" content="example.com/ap https://part.example.com/">
		<meta name="ac-discovery" content="example.com http://plain.example.com/{name}">
		<meta name="ac-discovery" content="example.com /etc/{name}">
		<meta name="ac-discovery" content="example.com file:///etc/{name}">
		<meta name="ac-discovery" content="three words here">
		<meta name="ac-discovery-pubkeys" content="example.com https://keys.example.com/">
		</head><body><meta name="ac-discovery" content="example.com https://body.example.com/{name}"></body></html>`

func TestTemplates(t *testing.T) {
	want := []Template{"https://one.example.com/{name}-{version}.{ext}", "https://two.example.com/{name}"}
	if got := Templates([]byte(page), "example.com/a/pp"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNewSystem(t *testing.T) {
	for in, want := range map[[3]string]string{
		{"linux", "amd64", "v3"}: "amd64", {"linux", "386", ""}: "i386", {"linux", "arm64", "v8"}: "aarch64",
		{"linux", "arm", "v6"}: "armv6l", {"linux", "arm", "v7"}: "armv7l", {"linux", "s390x", ""}: "s390x",
		{"linux", "riscv64", ""}: "", {"windows", "amd64", ""}: "",
	} {
		got, err := NewSystem(in[0], in[1], in[2])
		if got.Arch != want || (want == "") != errors.Is(err, container.ErrNotSupported) {
			t.Errorf("%v: %+v, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(`{"acKind": "ImageManifest", "acVersion": "0.6.1", "name": "a", "app": {"exec": null}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			return
		}
		printed, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseManifest(printed)
		if err != nil || !cmp.Equal(m, again, equateEmpty) {
			t.Fatalf("%s\nprints as\n%s\n%v\n%s", text, printed, err, cmp.Diff(m, again, equateEmpty))
		}
	})
}

// equateEmpty: an empty list is printed as none.
var equateEmpty = cmp.FilterValues(func(a, b any) bool { return isEmpty(a) && isEmpty(b) }, cmp.Ignore())

func isEmpty(v any) bool {
	switch list := v.(type) {
	case []string:
		return len(list) == 0
	case []Label:
		return len(list) == 0
	case []uint32:
		return len(list) == 0
	case []Variable:
		return len(list) == 0
	case []Dependency:
		return len(list) == 0
	}
	return false
}

func FuzzParseRequest(f *testing.F) {
	for _, seed := range []string{"a", "example.com/a,version=1.0.0,os=linux", "a@sha512-" + zeros, "a,,", "a@", "a,b=c=d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRequest(s)
		if err != nil {
			return
		}
		again, err := ParseRequest(r.String())
		if err != nil || !cmp.Equal(r, again) {
			t.Fatalf("%q is %+v, prints as %q, which is %+v, %v", s, r, r, again, err)
		}
		place, err := Simple.Place(r, System{"linux", "amd64"}, ImageExt)
		if err != nil || strings.Contains("/"+place+"/", "/../") || strings.HasPrefix(place, "/") {
			t.Fatalf("%q leads to %q, %v", s, place, err)
		}
	})
}

// A page of a megabyte has room for thousands, each of which would be tried.
func TestAPageOfTooManyTemplates(t *testing.T) {
	tag := `<meta name="ac-discovery" content="a https://x/{name}">`
	if n := len(Templates([]byte(strings.Repeat(tag, 10_000)), "a")); n > 100 {
		t.Errorf("%d templates", n)
	}
}

func FuzzTemplates(f *testing.F) {
	f.Add([]byte(`<head><meta name="ac-discovery" content="example.com https://x/{name}">`), "example.com/a")
	f.Add([]byte(page), "example.com/a/pp")
	f.Add([]byte(`<meta name=ac-discovery content='&#101;xample.com https://x/'><![CDATA[<meta>]]><meta/ name="ac-discovery"`), "example.com")
	f.Fuzz(func(t *testing.T, page []byte, name string) {
		for _, template := range Templates(page, name) {
			if !strings.HasPrefix(string(template), "https://") {
				t.Fatalf("%q", template)
			}
		}
	})
}
