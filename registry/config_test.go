package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/container"
	"berth/image"
)

func write(t *testing.T, text string, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// find looks credentials up as a client does.
func find(t *testing.T, k Keychain, name string) Credentials {
	t.Helper()
	e := mustEndpoint(t, newTestClient(k), name)
	found, err := k.Resolve(t.Context(), e.registry, e.repository)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCredentialsAreThoseOfTheHost(t *testing.T) {
	const auth = `{"auth":"Ym9iOnNlY3JldA=="}` // bob:secret
	for _, c := range []struct {
		key, name string
		found     bool
	}{
		{"r.example.com", "r.example.com/a", true},
		{"R.Example.com", "r.example.com/a", true},
		{"https://r.example.com", "r.example.com/a", true},
		{"https://r.example.com/v1/", "r.example.com/a", true},
		{"https://r.example.com/v2/", "r.example.com/a", true},
		{"http://r.example.com/", "r.example.com/a", true},
		{"r.example.com:443", "r.example.com/a", true}, // MESOS-9967
		{"r.example.com", "r.example.com:443/a", true},
		{"r.example.com:5000", "r.example.com:5000/a", true},
		{"r.example.com", "r.example.com:5000/a", false},
		{"r.example.com:5000", "r.example.com/a", false},
		{"example.com", "r.example.com/a", false},
		{"xr.example.com", "r.example.com/a", false},
		{"https://index.docker.io/v1/", "alpine", true},
		{"docker.io", "alpine", true},
		{"registry-1.docker.io", "alpine", true},
		{"notdocker.io", "alpine", false},
		{"r.example.com/team", "r.example.com/team/app", true},
		{"r.example.com/team", "r.example.com/teams/app", false},
		{"r.example.com/team", "r.example.com/other", false},
	} {
		for _, form := range []string{`{"auths":{%q:%s}}`, `{%q:%s}`} {
			config, err := ParseDockerConfig(fmt.Appendf(nil, form, c.key, auth))
			if err != nil {
				t.Fatalf("%s: %v", c.key, err)
			}
			got := find(t, config, c.name)
			if (got.Username == "bob" && got.Password == "secret") != c.found {
				t.Errorf("%s for %s in %s: %+v", c.key, c.name, form, got)
			}
		}
	}
}

func TestDockerConfigRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":              `hunter2`,
		"a list":               `["hunter2"]`,
		"auths a word":         `{"auths":"hunter2"}`,
		"entry a word":         `{"auths":{"r.example.com":"hunter2"}}`,
		"old form with a word": `{"r.example.com":"hunter2"}`,
		"auth not base64":      `{"auths":{"r.example.com":{"auth":"hunter2 !"}}}`,
		"auth without a colon": `{"auths":{"r.example.com":{"auth":"aHVudGVyMg=="}}}`,
		"helpers a word":       `{"credHelpers":"hunter2"}`,
	} {
		_, err := ParseDockerConfig([]byte(text))
		if !errors.Is(err, container.ErrInvalid) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "aHVudGVyMg") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, settings := range []string{`{}`, `{"psFormat":"table","proxies":{}}`, `{"HttpHeaders":{"a":"b"}}`} {
		if _, err := ParseDockerConfig([]byte(settings)); err != nil {
			t.Errorf("%s: %v", settings, err)
		}
	}
}

func TestDockerConfigFlag(t *testing.T) {
	const text = `{"auths":{"r.example.com":{"username":"bob","password":"secret"}}}`
	path := write(t, text, t.TempDir(), "config.json")
	for _, value := range []string{text, path, "file://" + path} {
		config, err := ReadDockerConfig(value)
		if err != nil {
			t.Fatal(err)
		}
		if got := find(t, config, "r.example.com/a"); got.Password != "secret" {
			t.Errorf("%s: %+v", value, got)
		}
	}
	for _, value := range []string{"config.json", `"hunter2"`, "/no/such/file"} {
		if _, err := ReadDockerConfig(value); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestUserCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", filepath.Join(dir, "home"))
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Setenv("XDG_CONFIG_HOME", "")
	user := func(name string) string {
		return fmt.Sprintf(`{"auths":{"r.example.com":{"username":%q,"password":"secret"}}}`, name)
	}
	want := func(name string) {
		t.Helper()
		if got := find(t, UserCredentials(), "r.example.com/a"); got.Username != name {
			t.Errorf("found %+v, want %s", got, name)
		}
	}
	want("")
	write(t, user("podman"), dir, "run/containers/auth.json")
	want("podman")
	write(t, user("docker"), dir, "home/.docker/config.json")
	want("docker")
	write(t, user("elsewhere"), dir, "else/config.json")
	t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "else"))
	want("elsewhere")
}

func TestCredentialHelpers(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	helper := func(name, script string) {
		if err := os.Chmod(write(t, "#!/bin/sh\n"+script, dir, "docker-credential-"+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	helper("echo", `read -r s; echo "{\"ServerURL\":\"$s\",\"Username\":\"$1\",\"Secret\":\"for $s\"}"`)
	helper("token", `echo '{"Username":"<token>","Secret":"refresh"}'`)
	helper("none", `echo "credentials not found in native keychain"; exit 1`)
	helper("broken", `echo hunter2; exit 1`)
	helper("slow", `exec sleep 100`)
	config := func(text string) *DockerConfig {
		c, err := ParseDockerConfig([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, c := range map[string]struct {
		config, image string
		want          Credentials
	}{
		"the store":              {`{"credsStore":"echo"}`, "r.example.com:5000/a", Credentials{Username: "get", Password: "for r.example.com:5000"}},
		"the store, docker hub":  {`{"credsStore":"echo"}`, "alpine", Credentials{Username: "get", Password: "for https://index.docker.io/v1/"}},
		"a token":                {`{"credHelpers":{"r.example.com":"token"}}`, "r.example.com/a", Credentials{IdentityToken: "refresh"}},
		"a helper before all":    {`{"credsStore":"token","credHelpers":{"r.example.com":"echo"},"auths":{"r.example.com":{"auth":"Ym9iOnNlY3JldA=="}}}`, "r.example.com/a", Credentials{Username: "get", Password: "for r.example.com"}},
		"the empty entry":        {`{"credsStore":"echo","auths":{"r.example.com":{}}}`, "r.example.com/a", Credentials{Username: "get", Password: "for r.example.com"}},
		"it knows none":          {`{"credsStore":"none"}`, "r.example.com/a", Credentials{}},
		"a helper of another":    {`{"credHelpers":{"other.example.com":"broken"}}`, "r.example.com/a", Credentials{}},
		"an entry, and no store": {`{"auths":{"r.example.com":{}}}`, "r.example.com/a", Credentials{}},
	} {
		if got := find(t, config(c.config), c.image); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	for _, name := range []string{"broken", "missing", "../echo"} {
		_, err := config(fmt.Sprintf(`{"credsStore":%q}`, name)).Resolve(t.Context(), "r.example.com", "a")
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := config(`{"credsStore":"slow"}`).Resolve(ctx, "r.example.com", "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a helper that does not end: %v", err)
	}
}

// Credentials of a request go before those of the client, and are not kept for others.
func TestAsPutsCredentialsFirst(t *testing.T) {
	var asked []string
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		asked = append(asked, user)
		if user == "" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(401)
			return
		}
		w.Header().Set("Content-Type", image.MediaTypeOCIIndex)
		io.WriteString(w, emptyIndex)
	})
	c := newTestClient(user{host, Credentials{Username: "agent", Password: "x"}})
	alice := c.As(user{host, Credentials{Username: "alice", Password: "y"}})
	none := c.As(anonymous)
	for _, client := range []*Client{alice, c, none} {
		if _, err := client.Manifest(t.Context(), mustName(t, host+"/a")); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"", "alice", "", "agent", "", "agent"}; !slices.Equal(asked, want) {
		t.Errorf("asked as %q, want %q", asked, want)
	}
}

// bases are the places of a name, in words.
func bases(t *testing.T, o Options, name string) (all []string) {
	t.Helper()
	places, err := quickClient(o).endpoints(mustName(t, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range places {
		s := e.base.String()
		if e.mirror {
			s += " mirror"
		}
		if e.insecure {
			s += " insecure"
		}
		all = append(all, s)
	}
	return all
}

// hostsText is a hosts.toml as people have it.
const hostsText = `server = "https://registry-1.docker.io"
[host."https://second.example.com/base"]
  capabilities = ["pull"]
[host."http://127.0.0.1:5001"]
[host."https://first.example.com/v2/hub"]
  override_path = true
  skip_verify = true
  ca = ["a.crt", "/b.crt"]
  client = [["c.cert", "c.key"], ["d.pem", ""]]
  [host."https://first.example.com/v2/hub".header]
    X-A = ["1", "2"]
`

func TestHostsToml(t *testing.T) {
	dir := t.TempDir()
	write(t, hostsText, dir, "docker.io", "hosts.toml")
	write(t, `[host."mirror.example.com:5000"]`, dir, "r.example.com_5000_", "hosts.toml")
	write(t, `server = "https://everything.example.com"`, dir, "_default", "hosts.toml")
	digest := "@" + image.DigestOf(nil).String()
	for name, want := range map[string][]string{
		"alpine": {"http://127.0.0.1:5001/v2/library/alpine?ns=docker.io mirror",
			"https://first.example.com/v2/hub/library/alpine?ns=docker.io mirror insecure",
			"http://first.example.com/v2/hub/library/alpine?ns=docker.io mirror insecure",
			"https://registry-1.docker.io/v2/library/alpine"},
		"alpine" + digest: {"https://second.example.com/base/v2/library/alpine?ns=docker.io mirror",
			"http://127.0.0.1:5001/v2/library/alpine?ns=docker.io mirror",
			"https://first.example.com/v2/hub/library/alpine?ns=docker.io mirror insecure",
			"http://first.example.com/v2/hub/library/alpine?ns=docker.io mirror insecure",
			"https://registry-1.docker.io/v2/library/alpine"},
		"r.example.com:5000/a": {"https://mirror.example.com:5000/v2/a?ns=r.example.com%3A5000 mirror", "https://r.example.com:5000/v2/a"},
		"other.example.com/a":  {"https://everything.example.com/v2/a"},
	} {
		if got := bases(t, Options{HostsDir: dir}, name); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	places, _ := quickClient(Options{HostsDir: dir}).endpoints(mustName(t, "alpine"))
	first := places[1]
	at := filepath.Join(dir, "docker.io")
	if want := []string{at + "/a.crt", "/b.crt"}; !slices.Equal(first.ca, want) {
		t.Errorf("ca %q, want %q", first.ca, want)
	}
	if want := []keyPair{{at + "/c.cert", at + "/c.key"}, {at + "/d.pem", at + "/d.pem"}}; !slices.Equal(first.pairs, want) {
		t.Errorf("client %q, want %q", first.pairs, want)
	}
	if got := first.header.Values("X-A"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("header %q", got)
	}
	if places[3].registry != "docker.io" || first.registry != "first.example.com" {
		t.Errorf("credentials are those of %s and %s", places[3].registry, first.registry)
	}
}

// registriesText is a registries.conf as people have it.
const registriesText = `unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.example.com/hub"
[[registry.mirror]]
location = "127.0.0.1:5001"
pull-from-mirror = "digest-only"
[[registry]]
location = "r.example.com/team"
insecure = true
[[registry]]
prefix = "*.internal.example.com"
location = "all.example.com"
[[registry]]
prefix = "bad.example.com"
blocked = true
[[registry]]
prefix = "replaced.example.com"
blocked = true
`

func TestRegistriesConf(t *testing.T) {
	conf := write(t, registriesText, t.TempDir(), "registries.conf")
	write(t, "[[registry]]\nprefix = 'replaced.example.com'\nlocation = 'good.example.com'\n", conf+".d", "50.conf")
	write(t, "not toml", conf+".d", "README")
	digest := "@" + image.DigestOf(nil).String()
	for name, want := range map[string][]string{
		"alpine":                      {"https://mirror.example.com/v2/hub/library/alpine mirror", "https://registry-1.docker.io/v2/library/alpine"},
		"alpine" + digest:             {"https://mirror.example.com/v2/hub/library/alpine mirror", "http://127.0.0.1:5001/v2/library/alpine mirror", "https://registry-1.docker.io/v2/library/alpine"},
		"r.example.com/team/a":        {"https://r.example.com/v2/team/a insecure", "http://r.example.com/v2/team/a insecure"},
		"r.example.com/teams/a":       {"https://r.example.com/v2/teams/a"},
		"x.internal.example.com/a/b":  {"https://all.example.com/v2/a/b"},
		"internal.example.com/a":      {"https://internal.example.com/v2/a"},
		"replaced.example.com/a":      {"https://good.example.com/v2/a"},
		"replaced.example.com:5000/a": {"https://replaced.example.com:5000/v2/a"},
		"unmentioned.example.com/a:1": {"https://unmentioned.example.com/v2/a"},
	} {
		got := bases(t, Options{RegistriesConf: conf}, name)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	_, err := quickClient(Options{RegistriesConf: conf}).endpoints(mustName(t, "bad.example.com/a"))
	check(t, err, container.ErrDenied, "blocked", conf)
}

// What Docker would take for the name of a user of Docker Hub is no registry, and nobody's
// images are looked for there.
func TestALocationIsNeverDockerHubUnsaid(t *testing.T) {
	for _, location := range []string{"mirror/cache", "mirror.example.com/cache:5"} {
		for _, text := range []string{
			"[[registry]]\nprefix = 'r.example.com/a'\nlocation = '" + location + "'\n",
			"[[registry]]\nprefix = 'r.example.com/a'\n[[registry.mirror]]\nlocation = '" + location + "'\n",
		} {
			conf := write(t, text, t.TempDir(), "registries.conf")
			places, err := quickClient(Options{RegistriesConf: conf}).endpoints(mustName(t, "r.example.com/a"))
			if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), location) {
				t.Errorf("%s: asked at %v, %v", text, places, err)
			}
		}
	}
}

func TestALocationMayEndWithASlash(t *testing.T) {
	conf := write(t, "[[registry]]\nprefix = 'r.example.com/'\n[[registry.mirror]]\nlocation = 'm.example.com/cache/'\n", t.TempDir(), "registries.conf")
	want := []string{"https://m.example.com/v2/cache/a mirror", "https://r.example.com/v2/a"}
	if got := bases(t, Options{RegistriesConf: conf}, "r.example.com/a"); !slices.Equal(got, want) {
		t.Errorf("asked at %q, want %q", got, want)
	}
}

var (
	badHosts = []string{"x", `server = 7`, `server = "ftp://r"`, `server = "https://user:hunter2@r"`, `[host."https://r?a=b"]`,
		"[host.r]\nca = 7", "[host.r]\nca = [7]", "[host.r]\nclient = [['a','b','c']]", "[host.r.header]\nA = 7", "[host.r.header]\nA = \"a\\r\\nB: c\""}
	badRegistries = []string{"x", "[[registry]]", "[[registry]]\nprefix = 'a'\n[[registry.mirror]]",
		"[[registry]]\nprefix = 'a'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'never'"}
)

func TestConfigurationOfMirrorsRefuses(t *testing.T) {
	for _, text := range badHosts {
		_, err := parseHosts(text, "/", mustName(t, "r.example.com/a"))
		if !errors.Is(err, container.ErrInvalid) {
			t.Errorf("hosts.toml %q: %v", text, err)
		}
	}
	for _, text := range badRegistries {
		if _, err := parseRegistries(text); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("registries.conf %q: %v", text, err)
		}
	}
}

func FuzzHosts(f *testing.F) {
	for _, text := range append(badHosts, hostsText) {
		f.Add(text)
	}
	f.Add("server = \"https://r\"\n[host.\"http://127.0.0.1:1/v2\"]\ncapabilities = [\"pull\"]\nca = \"a\"\nclient = [[\"a\",\"b\"]]\n[host.x.header]\na = \"b\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		name, err := image.ParseName("r.example.com/a")
		if err != nil {
			t.Fatal(err)
		}
		all, err := parseHosts(text, "/d", name)
		if err == nil && len(all) == 0 {
			t.Fatal("no place, no error")
		}
		for _, e := range all {
			if e.base.Hostname() == "" || !strings.HasSuffix(e.base.Path, "/a") {
				t.Fatalf("place %s", e.base)
			}
		}
	})
}

func FuzzRegistries(f *testing.F) {
	for _, text := range append(badRegistries, registriesText) {
		f.Add(text)
	}
	f.Add("[[registry]]\nprefix = '*.example.com'\nlocation = 'm.example.com/x'\n[[registry.mirror]]\nlocation = 'n.example.com'\npull-from-mirror = 'tag-only'\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := parseRegistries(text)
		if err != nil {
			return
		}
		for _, e := range entries {
			if n := e.covers("r.example.com/a"); n >= 0 {
				_, _ = e.endpoints("r.example.com/a", n)
			}
		}
	})
}

// A mirror that fails, lies or is not there costs a request, and nothing else.
func TestMirrorsThatFail(t *testing.T) {
	good := &blobServer{content: randomBytes(1 << 20)}
	bad := append([]byte("lies"), good.content[4:]...)
	for name, mirror := range map[string]http.HandlerFunc{
		"not there":      nil,
		"knows nothing":  status(404, "text/plain", ""),
		"denies":         status(403, "text/plain", ""),
		"is busy":        status(429, "text/plain", "", "Retry-After", "30"),
		"fails":          status(500, "text/plain", ""),
		"lies":           answer("application/octet-stream", string(bad)),
		"is a page":      answer("text/html", "<html>"),
		"breaks off":     breakOff("application/octet-stream", 1<<20, string(good.content[:1000])),
		"sends nothing":  breakOff("application/octet-stream", 1<<20, ""),
		"wants password": status(401, "text/plain", "", "WWW-Authenticate", "Basic"),
	} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, good.ServeHTTP)
			at := "127.0.0.1:1"
			if mirror != nil {
				at = serve(t, mirror)
			}
			conf := write(t, fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", host, at), t.TempDir(), "registries.conf")
			c := quickClient(Options{RegistriesConf: conf})
			var got string
			for range 2 {
				b, err := c.Blob(t.Context(), mustName(t, host+"/a"), good.descriptor())
				if err != nil {
					t.Fatal(err)
				}
				content, err := io.ReadAll(b)
				got = string(content)
				b.Close()
				if err == nil {
					break
				}
				if !b.Distrust() {
					t.Fatal(err)
				}
			}
			if got != string(good.content) {
				t.Fatalf("%d other bytes", len(got))
			}
		})
	}
}

// A mirror is used, with its own credentials, and the registry is not asked.
func TestMirrorServesWithItsOwnCredentials(t *testing.T) {
	blob := &blobServer{content: randomBytes(1000)}
	host := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the registry was asked for %s", r.URL) })
	mirror := serve(t, func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		if name == "" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(401)
			return
		}
		if name != "mirror" || password != "m" || r.URL.Query().Get("ns") != host {
			t.Errorf("asked as %s:%s for %s", name, password, r.URL)
		}
		blob.ServeHTTP(w, r)
	})
	dir := t.TempDir()
	at, port, _ := strings.Cut(host, ":")
	write(t, fmt.Sprintf("[host.\"http://%s\"]\n", mirror), dir, at+"_"+port+"_", "hosts.toml")
	config, err := ParseDockerConfig(fmt.Appendf(nil, `{"auths":{%q:{"username":"registry","password":"r"},%q:{"username":"mirror","password":"m"}}}`, host, mirror))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readBlob(quickClient(Options{HostsDir: dir, Keychain: config}), mustName(t, host+"/a"), blob.descriptor())
	if err != nil || got != string(blob.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// serveTLS starts an https server, which may ask for client certificates, and returns its
// host and its certificate.
func serveTLS(t *testing.T, auth tls.ClientAuthType, handler http.HandlerFunc) (host, ca string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: auth}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

func TestCertificateDirectories(t *testing.T) {
	index := answer(image.MediaTypeOCIIndex, emptyIndex)
	manifest := func(o Options, host string) error {
		_, err := quickClient(o).Manifest(t.Context(), mustName(t, host+"/a"))
		return err
	}
	t.Run("authority", func(t *testing.T) {
		host, ca := serveTLS(t, tls.NoClientCert, index)
		dir := t.TempDir()
		write(t, ca, dir, host, "ca.crt")
		if err := manifest(Options{CertDirs: []string{"/no/such/dir", dir}}, host); err != nil {
			t.Error(err)
		}
	})
	t.Run("another authority", func(t *testing.T) {
		host, _ := serveTLS(t, tls.NoClientCert, index)
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, host), 0o755); err != nil {
			t.Fatal(err)
		}
		check(t, manifest(Options{CertDirs: []string{dir}}, host), container.ErrFailedPrecondition, "certs.d")
	})
	t.Run("client certificate", func(t *testing.T) {
		host, ca := serveTLS(t, tls.RequireAnyClientCert, func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) != 1 {
				t.Error("no client certificate")
			}
			index(w, r)
		})
		dir := t.TempDir()
		write(t, ca, dir, host, "ca.crt")
		if err := manifest(Options{Attempts: 1, CertDirs: []string{dir}}, host); err == nil {
			t.Error("without a client certificate it works, too")
		}
		cert, key := clientPair(t)
		write(t, cert, dir, host, "client.cert")
		write(t, key, dir, host, "client.key")
		if err := manifest(Options{CertDirs: []string{dir}}, host); err != nil {
			t.Error(err)
		}
	})
	t.Run("broken", func(t *testing.T) {
		host, _ := serveTLS(t, tls.NoClientCert, index)
		for _, file := range []string{"ca.crt", "client.cert", "client.key"} {
			dir := t.TempDir()
			path := write(t, "nonsense", dir, host, file)
			check(t, manifest(Options{CertDirs: []string{dir}}, host), container.ErrInvalid, path)
		}
	})
	t.Run("insecure", func(t *testing.T) {
		host, _ := serveTLS(t, tls.NoClientCert, index)
		if err := manifest(Options{Insecure: []string{host}}, host); err != nil {
			t.Error(err)
		}
		plain := serve(t, index)
		if err := manifest(Options{Insecure: []string{plain}}, plain); err != nil {
			t.Error(err)
		}
	})
}

// A header of the configuration may be a password, and a registry may send back what it was sent.
func TestHeadersOfTheConfigurationAreNotShown(t *testing.T) {
	for _, status := range []int{400, 404, 500} {
		host := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			io.WriteString(w, `{"errors":[{"code":"X","message":"you sent `+r.Header.Get("X-Key")+`"}]}`)
		})
		dir := t.TempDir()
		write(t, "server = 'http://"+host+"'\n[header]\nX-Key = 'hunter2'\n", dir, host, "hosts.toml")
		_, err := quickClient(Options{HostsDir: dir, Attempts: 1}).Manifest(t.Context(), mustName(t, host+"/a"))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// What is configured of a mirror holds for the mirror of that registry. The same host under
// its own name is another matter, whichever of them is asked first: there nobody has said that
// its certificate is not to be checked.
func TestCertificatesAreTrustedForThePlaceThatSaysSo(t *testing.T) {
	host, ca := serveTLS(t, tls.NoClientCert, answer(image.MediaTypeOCIIndex, emptyIndex))
	for _, trust := range []string{"skip_verify = true", "ca = '" + write(t, ca, t.TempDir(), "ca.crt") + "'"} {
		dir := t.TempDir()
		write(t, "[host.'https://"+host+"']\n"+trust+"\n", dir, "r.example.com", "hosts.toml")
		none := filepath.Join(t.TempDir(), "certs")
		write(t, "", none, host, "empty") // so that https is spoken to a loopback host
		for _, order := range [][]string{{"r.example.com", host}, {host, "r.example.com"}} {
			c := quickClient(Options{HostsDir: dir, CertDirs: []string{none}, Attempts: 1})
			for _, registry := range order {
				_, err := c.Manifest(t.Context(), mustName(t, registry+"/a"))
				if registry == host {
					check(t, err, container.ErrFailedPrecondition, "certificate")
				} else if err != nil {
					t.Errorf("%s: the mirror after %s: %v", trust, order[0], err)
				}
			}
		}
	}
}

// clientPair is a self-signed certificate, and its key.
func clientPair(t *testing.T) (cert, key string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	pair := server.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
