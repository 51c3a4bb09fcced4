package operator

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"berth/container"
)

func TestACLs(t *testing.T) {
	acls, err := ParseACLs([]byte(`{
		"view_flags": [{"principals": {"values": ["ops", "dev"]}, "flags": {"type": "ANY"}}],
		"launch_standalone_containers": [
			{"principals": {"values": ["dev"]}, "users": {"values": ["app"]}},
			{"principals": {"values": ["ops"]}, "users": {"type": "ANY"}},
			{"principals": {"type": "ANY"}, "users": {"type": "NONE"}}],
		"set_log_level": [{"principals": {"type": "NONE"}, "level": {"type": "ANY"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		principal, list, object string
		want                    bool
	}{
		{"ops", "view_flags", "", true},
		{"guest", "view_flags", "", false},
		{"dev", "launch_standalone_containers", "app", true},
		{"dev", "launch_standalone_containers", "root", false},
		{"ops", "launch_standalone_containers", "root", true},
		{"ops", "set_log_level", "", false},
		{"ops", "prune_images", "", false}, // what no rule allows
	} {
		if got := acls.allow(c.principal, c.list, c.object); got != c.want {
			t.Errorf("%s may %s %q: %v", c.principal, c.list, c.object, got)
		}
	}
	permissive, err := ParseACLs([]byte(`{"permissive": true, "prune_images": [{"principals": {"type": "ANY"}, "images": {"type": "NONE"}}]}`))
	if err != nil || !permissive.allow("x", "view_flags", "") || permissive.allow("x", "prune_images", "") {
		t.Errorf("permissive: %v, %+v", err, permissive)
	}
	if (*ACLs)(nil).allow("ops", "view_flags", "") {
		t.Error("no ACLs allow something")
	}
}

func TestACLsThatAreNone(t *testing.T) {
	for text, words := range map[string]string{
		`[]`:                    "",
		`{"permissive": "yes"}`: "permissive",
		`{"view_flag": []}`:     "no such list",
		`{"view_flags": {}}`:    "view_flags",
		`{"view_flags": [{}]}`:  "lacks principals",
		`{"view_flags": [{"principals": {"type": "ANY"}, "users": {"type": "ANY"}}]}`:  `"users" is not a member`,
		`{"view_flags": [{"principals": {"type": "MOST"}, "flags": {"type": "ANY"}}]}`: `"MOST" is none of`,
		`{"view_flags": [], "view_flags": []}`:                                         "twice",
	} {
		if _, err := ParseACLs([]byte(text)); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCredentialsThatAreNone(t *testing.T) {
	for text, words := range map[string]string{
		`{"credentials": [{"principal": "a"}]}`:                                                         "lacks",
		`{"credentials": [{"secret": "hush"}]}`:                                                         "lacks",
		`{"credentials": [{"principal": "a", "secret": "hush"}, {"principal": "a", "secret": "hush"}]}`: "twice",
		`{"credentials": "hush"}`:                                                                       "credentials",
		`hush`:                                                                                          "not JSON",
	} {
		_, err := ParseCredentials([]byte(text))
		if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestWhoComesByTCPSaysWhoTheyAre(t *testing.T) {
	credentials, err := ParseCredentials([]byte(`{"credentials": [{"principal": "ops", "secret": "s"}, {"principal": "guest", "secret": "g"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	acls, err := ParseACLs([]byte(`{"view_flags": [{"principals": {"values": ["ops", "cert"]}, "flags": {"type": "ANY"}}],
		"get_endpoints": [{"principals": {"values": ["ops"]}, "paths": {"values": ["/flags"]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	handler := ByPassword(func() Access { return Access{credentials, acls} }, newServer(t))
	certificate := func(name string) func(*http.Request) {
		return func(r *http.Request) {
			r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: name}}}}}
		}
	}
	password := func(principal, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(principal, secret) }
	}
	for _, c := range []struct {
		name, path, body string
		who              func(*http.Request)
		code             int
	}{
		{"nobody", "/api/v1", `{"type":"GET_FLAGS"}`, func(*http.Request) {}, 401},
		{"nobody asks for the health", "/health", "", func(*http.Request) {}, 200},
		{"nobody asks for the flags", "/flags", "", func(*http.Request) {}, 401},
		{"a wrong secret", "/api/v1", `{"type":"GET_FLAGS"}`, password("ops", "g"), 401},
		{"no such principal", "/api/v1", `{"type":"GET_FLAGS"}`, password("x", ""), 401},
		{"no principal", "/api/v1", `{"type":"GET_FLAGS"}`, password("", "s"), 401},
		{"with the right", "/api/v1", `{"type":"GET_FLAGS"}`, password("ops", "s"), 200},
		{"without the right", "/api/v1", `{"type":"GET_FLAGS"}`, password("guest", "g"), 403},
		{"everybody may see the health", "/api/v1", `{"type":"GET_HEALTH"}`, password("guest", "g"), 200},
		{"no rule is no right", "/api/v1", `{"type":"PRUNE_IMAGES"}`, password("ops", "s"), 403},
		{"an endpoint", "/flags", "", password("ops", "s"), 200},
		{"another endpoint", "/metrics", "", password("ops", "s"), 403},
		{"a certificate", "/api/v1", `{"type":"GET_FLAGS"}`, certificate("cert"), 200},
		{"a certificate of another", "/api/v1", `{"type":"GET_FLAGS"}`, certificate("guest"), 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", c.path, nil)
			if c.body != "" {
				r = httptest.NewRequest("POST", c.path, strings.NewReader(c.body))
				r.Header.Set("Content-Type", "application/json")
			}
			c.who(r)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != c.code {
				t.Errorf("%d %q; want %d", w.Code, w.Body, c.code)
			}
			if asked := w.Header().Get("WWW-Authenticate") != ""; asked != (c.code == 401) {
				t.Errorf("WWW-Authenticate: %q", w.Header().Get("WWW-Authenticate"))
			}
		})
	}
}

func TestWhoAsksTooOftenIsToldSo(t *testing.T) {
	credentials, err := ParseCredentials([]byte(`{"credentials": [{"principal": "ops", "secret": "s"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	handler := ByPassword(func() Access { return Access{credentials, nil} }, newServer(t))
	ask := func(secret string) int {
		r := httptest.NewRequest("GET", "/version", nil)
		r.SetBasicAuth("ops", secret)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	count := make(map[int]int)
	for range 100 {
		count[ask("guess")]++
	}
	if count[http.StatusUnauthorized] < 50 || count[http.StatusTooManyRequests] == 0 {
		t.Errorf("of 100 guesses at once: %v", count)
	}
	if got := ask("s"); got != http.StatusOK {
		t.Errorf("meanwhile who knows the secret gets %d", got)
	}
}
