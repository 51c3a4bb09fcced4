package registry

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"berth/container"
	"berth/image"
)

const signature = "sig=s1gned-url"

func redirect(code int, to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(code)
	}
}

// askFirst makes a handler that wants bob's password before anything else.
func askFirst(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != secretPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(401)
			return
		}
		next(w, r)
	}
}

// storage serves content and records the credentials that reach it.
type storage struct {
	content  string
	received []string
}

func (s *storage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, name := range []string{"Authorization", "Cookie", "Referer"} {
		if value := r.Header.Get(name); value != "" {
			s.received = append(s.received, name+": "+value)
		}
	}
	fmt.Fprint(w, s.content)
}

// CVE-2020-15157, and its relatives: another port and a sub-domain are other hosts.
func TestCredentialsDoNotFollowToAnotherHost(t *testing.T) {
	for attack, target := range map[string]string{
		"another host":    "https://cdn.example.net/blob?" + signature,
		"a sub-domain":    "https://cdn.r.example.com/blob?" + signature,
		"the parent":      "https://example.com/blob?" + signature,
		"another port":    "https://r.example.com:8443/blob?" + signature,
		"host and secret": "https://bob:" + secretPassword + "@cdn.example.net/blob?" + signature,
	} {
		t.Run(attack, func(t *testing.T) {
			s := &storage{content: "the content"}
			i := newInternet(t)
			i.serve(t, askFirst(redirect(307, target)), "r.example.com:443")
			i.serve(t, s.ServeHTTP, "cdn.example.net:443", "cdn.r.example.com:443", "example.com:443", "r.example.com:8443")
			c := NewClient(Options{Attempts: 1, Keychain: bob("r.example.com"), Transport: i.transport})
			got, err := readBlob(c, mustName(t, "r.example.com/a"), descriptorOf(s.content))
			if err != nil || got != s.content {
				t.Fatalf("%q, %v", got, err)
			}
			if len(s.received) > 0 {
				t.Fatalf("the other host received %q", s.received)
			}
		})
	}
}

func TestTokenDoesNotFollowToAnotherHost(t *testing.T) {
	s := &storage{content: "the content"}
	tokens := &tokenServer{}
	i := newInternet(t)
	i.serve(t, s.ServeHTTP, "cdn.example.net:443")
	i.serve(t, tokens.ServeHTTP, "auth.example.com:443")
	i.serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secretToken {
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://auth.example.com/token"`)
			w.WriteHeader(401)
			return
		}
		redirect(302, "https://cdn.example.net/blob")(w, r)
	}, "r.example.com:443")
	c := NewClient(Options{Attempts: 1, Keychain: bob("r.example.com"), Transport: i.transport})
	got, err := readBlob(c, mustName(t, "r.example.com/a"), descriptorOf(s.content))
	if err != nil || got != s.content || len(s.received) > 0 {
		t.Fatalf("%q, %v; the other host received %q", got, err, s.received)
	}
}

// A token server that redirects gets the password once.
func TestPasswordDoesNotFollowFromTheTokenServer(t *testing.T) {
	s := &storage{content: `{"token":"` + secretToken + `"}`}
	i := newInternet(t)
	i.serve(t, s.ServeHTTP, "evil.example.net:443")
	i.serve(t, redirect(307, "https://evil.example.net/token"), "auth.example.com:443")
	i.serve(t, status(401, "", "", "WWW-Authenticate", `Bearer realm="https://auth.example.com/token"`), "r.example.com:443")
	for name, config := range map[string]Credentials{
		"password":       bob("").config,
		"identity token": {IdentityToken: identityToken},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewClient(Options{Attempts: 1, Keychain: user{"r.example.com", config}, Transport: i.transport})
			_, err := c.Manifest(context.Background(), mustName(t, "r.example.com/a"))
			if err == nil || len(s.received) > 0 {
				t.Fatalf("%v; the other host received %q", err, s.received)
			}
			noSecrets(t, err)
		})
	}
}

// Credentials that left are not sent again when another host sends them back, to a
// path of its choice.
func TestCredentialsDoNotComeBack(t *testing.T) {
	var received []string
	i := newInternet(t)
	i.serve(t, redirect(307, "https://r.example.com/v2/private/blobs/x"), "evil.example.net:443")
	i.serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/private/") {
			received = append(received, r.Header.Get("Authorization"))
			return
		}
		askFirst(redirect(307, "https://evil.example.net/blob"))(w, r)
	}, "r.example.com:443")
	c := NewClient(Options{Attempts: 1, Keychain: bob("r.example.com"), Transport: i.transport})
	_, err := readBlob(c, mustName(t, "r.example.com/a"), descriptorOf("x"))
	check(t, err, container.ErrInvalid)
	if len(received) != 1 || received[0] != "" {
		t.Fatalf("received %q", received)
	}
}

func TestCredentialsFollowWithinTheHost(t *testing.T) {
	for name, to := range map[string]string{
		"path":                     "/elsewhere",
		"relative path":            "../../../elsewhere",
		"whole URL":                "https://r.example.com/elsewhere",
		"whole URL, with the port": "https://R.example.com:443/elsewhere",
	} {
		t.Run(name, func(t *testing.T) {
			i := newInternet(t)
			i.serve(t, askFirst(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/elsewhere" {
					answer(image.MediaTypeOCIIndex, emptyIndex)(w, r)
					return
				}
				redirect(301, to)(w, r)
			}), "r.example.com:443")
			c := NewClient(Options{Attempts: 1, Keychain: bob("r.example.com"), Transport: i.transport})
			if _, err := c.Manifest(context.Background(), mustName(t, "r.example.com/a")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestHostileRedirects(t *testing.T) {
	for attack, c := range map[string]struct {
		to    func(path string) string
		class error
		says  string
	}{
		"to itself":                  {func(path string) string { return path }, container.ErrInvalid, "circle"},
		"between two places":         {func(path string) string { return map[bool]string{true: "/b", false: "/a"}[path == "/a"] }, container.ErrInvalid, "circle"},
		"further and further":        {func(path string) string { return path + "x" }, container.ErrInvalid, "more than 5 redirects"},
		"from https to http":         {func(string) string { return "http://cdn.example.net/blob?" + signature }, container.ErrInvalid, "from https to plain http"},
		"from https to http, itself": {func(string) string { return "http://r.example.com/blob?" + signature }, container.ErrInvalid, "from https to plain http"},
		"to http on this machine":    {func(string) string { return "http://127.0.0.1:2375/containers/json" }, container.ErrInvalid, "from https to plain http"},
		"to a file":                  {func(string) string { return "file:///etc/passwd" }, container.ErrInvalid, "without a host"},
		"to a file of a host":        {func(string) string { return "file://h/etc/passwd" }, container.ErrInvalid, "only https"},
		"to nowhere":                 {func(string) string { return "" }, container.ErrInvalid, "Location"},
		"to what is no URL":          {func(string) string { return "https://cdn.example.net:port/?" + signature }, container.ErrInvalid, "Location"},
		"to a host that is not there": {func(string) string { return "https://127.0.0.1:1/blob?" + signature }, container.ErrUnavailable,
			"GET https://127.0.0.1:1/blob: "},
	} {
		t.Run(attack, func(t *testing.T) {
			var requests atomic.Int32
			i := newInternet(t)
			i.serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				redirect(307, c.to(r.URL.Path))(w, r)
			}, "r.example.com:443")
			client := NewClient(Options{Attempts: 1, Keychain: bob("r.example.com"), Transport: i.transport})
			_, err := readBlob(client, mustName(t, "r.example.com/a"), descriptorOf("x"))
			check(t, err, c.class, c.says, "fetch blob sha256:")
			if strings.Contains(err.Error(), signature) {
				t.Errorf("the error tells the signature: %v", err)
			}
			if got := requests.Load(); got > maxRedirects+1 {
				t.Errorf("%d requests", got)
			}
		})
	}
}

func TestFiveRedirectsAreFine(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "xxxxx") {
			answer(image.MediaTypeOCIIndex, emptyIndex)(w, r)
			return
		}
		redirect(308, r.URL.Path+"x")(w, r)
	})
	if _, err := newTestClient(anonymous).Manifest(context.Background(), mustName(t, host+"/a:b")); err != nil {
		t.Fatal(err)
	}
}

func TestPlainHTTPStaysOnThisMachine(t *testing.T) {
	host := serve(t, redirect(307, "http://192.0.2.1/blob"))
	_, err := newTestClient(anonymous).Manifest(context.Background(), mustName(t, host+"/a:b"))
	check(t, err, container.ErrInvalid, "only https")

	s := &storage{content: "the content"}
	host = serve(t, redirect(307, "http://"+serve(t, s.ServeHTTP)+"/blob"))
	if got, err := readBlob(newTestClient(bob(host)), mustName(t, host+"/a"), descriptorOf(s.content)); err != nil || got != s.content {
		t.Fatalf("%q, %v", got, err)
	}
}

// A storage host that refuses is no reason to log in, and its challenge is not
// answered.
func TestRefusalsOfAnotherHost(t *testing.T) {
	for _, code := range []int{401, 403} {
		i := newInternet(t)
		var asked atomic.Int32
		i.serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) }, "auth.evil.example.net:443")
		i.serve(t, status(code, "", "", "WWW-Authenticate", `Bearer realm="https://auth.evil.example.net/token"`), "cdn.example.net:443")
		i.serve(t, redirect(307, "https://cdn.example.net/blob?"+signature), "r.example.com:443")
		c := NewClient(Options{Attempts: 1, Keychain: bob("r.example.com"), Transport: i.transport})
		_, err := readBlob(c, mustName(t, "r.example.com/a"), descriptorOf("x"))
		check(t, err, container.ErrUnavailable, "https://cdn.example.net/blob: ", fmt.Sprint(code))
		if asked.Load() > 0 {
			t.Error("a token server of another host was asked")
		}
	}
}
