package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/image"
)

const (
	secretPassword = "s3cret-pass"
	secretToken    = "t0ken-of-the-server"
	identityToken  = "1dentity-token"
)

// guarded is a registry whose repositories need the given Authorization.
func guarded(authorization, challenge string, requests *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.Header.Get("Authorization") != authorization {
			w.Header().Set("WWW-Authenticate", challenge)
			status(401, "application/json", `{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}`)(w, r)
			return
		}
		answer(image.MediaTypeOCIIndex, emptyIndex)(w, r)
	}
}

// noSecrets fails if an error tells a secret.
func noSecrets(t *testing.T, err error) {
	t.Helper()
	encoded, _ := basicGrant(Credentials{Username: "bob", Password: secretPassword})
	for _, secret := range append(encoded.secrets, secretToken, identityToken) {
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

func bob(registry string) user {
	return user{registry, Credentials{Username: "bob", Password: secretPassword}}
}

func TestBasic(t *testing.T) {
	want, _ := basicGrant(Credentials{Username: "bob", Password: secretPassword})
	var requests atomic.Int32
	host := serve(t, guarded(want.header, `Basic realm="r"`, &requests))
	n := mustName(t, host+"/a:b")

	c := newTestClient(bob(host))
	for range 3 {
		if _, err := c.Manifest(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
	if got := requests.Swap(0); got != 4 {
		t.Errorf("%d requests for 3 manifests, want one more", got)
	}

	requests.Store(0)
	_, err := newTestClient(anonymous).Manifest(context.Background(), n)
	check(t, err, container.ErrDenied, "asks for a password", "no credentials for "+host, "docker login "+host, "config.json")
	if got := requests.Swap(0); got != 1 {
		t.Errorf("%d requests without credentials", got)
	}

	_, err = newTestClient(user{host, Credentials{Username: "bob", Password: "wrong"}}).Manifest(context.Background(), n)
	check(t, err, container.ErrDenied, "UNAUTHORIZED: log in", "wrong or not sufficient")
	if got := requests.Load(); got != 2 {
		t.Errorf("%d requests with wrong credentials", got)
	}
}

// tokenServer gives a token to bob, and records what it was asked.
type tokenServer struct {
	host string
	mu   sync.Mutex
	asks []string
	// anonymous gives one to everybody.
	anonymous bool
	// answer is what it says; "" is a JSON object with the token.
	answer string
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	s.mu.Lock()
	s.asks = append(s.asks, r.Method+" "+r.URL.Path+"?"+r.Form.Encode())
	said := s.answer
	s.mu.Unlock()
	name, password, _ := r.BasicAuth()
	known := name == "bob" && password == secretPassword || r.Form.Get("refresh_token") == identityToken
	if !known && !s.anonymous {
		status(401, "application/json", `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`)(w, r)
		return
	}
	if said == "" {
		said = `{"token":"` + secretToken + `","expires_in":300}`
	}
	answer("application/json", said)(w, r)
}

func startTokenServer(t *testing.T) *tokenServer {
	s := &tokenServer{}
	s.host = serve(t, s.ServeHTTP)
	return s
}

func (s *tokenServer) challenge() string {
	return fmt.Sprintf(`Bearer realm="http://%s/token?account=x",service="the registry",scope="repository:a:pull,push"`, s.host)
}

func TestBearer(t *testing.T) {
	for name, c := range map[string]struct {
		config    Credentials
		anonymous bool
		answer    string
		ask       string
	}{
		"password":                     {config: bob("").config, ask: "GET /token?account=x&scope=repository%3Aa%3Apull%2Cpush&service=the+registry"},
		"anonymous":                    {anonymous: true, ask: "GET /token?account=x&scope=repository%3Aa%3Apull%2Cpush&service=the+registry"},
		"the name that OAuth2 has":     {config: bob("").config, answer: `{"access_token":"` + secretToken + `"}`, ask: "GET /token?account=x&scope=repository%3Aa%3Apull%2Cpush&service=the+registry"},
		"identity token":               {config: Credentials{IdentityToken: identityToken}, ask: "POST /token?account=x&client_id=berth&grant_type=refresh_token&refresh_token=" + identityToken + "&scope=repository%3Aa%3Apull%2Cpush&service=the+registry"},
		"a token in the configuration": {config: Credentials{RegistryToken: secretToken}},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := startTokenServer(t)
			tokens.anonymous, tokens.answer = c.anonymous, c.answer
			var requests atomic.Int32
			host := serve(t, guarded("Bearer "+secretToken, tokens.challenge(), &requests))
			client := newTestClient(user{host, c.config})
			var group errgroup.Group
			for range 8 {
				group.Go(func() error {
					_, err := client.Manifest(context.Background(), mustName(t, host+"/a:b"))
					return err
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			var want []string
			if c.ask != "" {
				want = []string{c.ask} // parallel requests share one token
			}
			if diff := cmp.Diff(want, tokens.asks); diff != "" {
				t.Errorf("asks: -want +got\n%s", diff)
			}
		})
	}
}

// MESOS-10092: registries leave out half of the challenge.
func TestBearerWithoutScopeAndService(t *testing.T) {
	tokens := startTokenServer(t)
	var requests atomic.Int32
	host := serve(t, guarded("Bearer "+secretToken, `Bearer realm=http://`+tokens.host+`/token`, &requests))
	if _, err := newTestClient(bob(host)).Manifest(context.Background(), mustName(t, host+"/a/b:c")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"GET /token?scope=repository%3Aa%2Fb%3Apull"}, tokens.asks); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// MESOS-9221: a token ends in the middle of a pull.
func TestExpiredTokenIsRenewed(t *testing.T) {
	tokens := startTokenServer(t)
	var valid atomic.Value
	valid.Store("first")
	var requests atomic.Int32
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		guarded("Bearer "+valid.Load().(string), tokens.challenge(), &requests)(w, r)
	})
	c := newTestClient(bob(host))
	for _, token := range []string{"first", "first", "second", "second"} {
		valid.Store(token)
		tokens.mu.Lock()
		tokens.answer = `{"token":"` + token + `"}`
		tokens.mu.Unlock()
		if _, err := c.Manifest(context.Background(), mustName(t, host+"/a:b")); err != nil {
			t.Fatal(err)
		}
	}
	if len(tokens.asks) != 2 || requests.Load() != 6 {
		t.Errorf("%d tokens, %d requests", len(tokens.asks), requests.Load())
	}
}

func TestBearerRefused(t *testing.T) {
	for name, c := range map[string]struct {
		challenge func(tokens *tokenServer) string
		config    Credentials
		answer    string
		class     error
		says      string
	}{
		"wrong password":               {config: Credentials{Username: "bob", Password: "wrong"}, class: container.ErrDenied, says: "who are you"},
		"wrong identity token":         {config: Credentials{IdentityToken: "wrong"}, class: container.ErrDenied, says: "POST"},
		"no credentials":               {class: container.ErrDenied, says: "docker login"},
		"token that does not help":     {config: bob("").config, answer: `{"token":"useless"}`, class: container.ErrDenied, says: "wrong or not sufficient"},
		"answer without a token":       {config: bob("").config, answer: `{}`, class: container.ErrInvalid, says: "no token"},
		"answer that is a page":        {config: bob("").config, answer: "<html>" + secretToken, class: container.ErrInvalid, says: "not JSON"},
		"token that splits the header": {config: bob("").config, answer: `{"token":"a\r\nX-Evil: ` + secretToken + `"}`, class: container.ErrInvalid, says: "header"},
		"answer of a megabyte":         {config: bob("").config, answer: `{"token":"` + strings.Repeat("x", 1<<20) + `"}`, class: container.ErrInvalid, says: "more than"},
		"challenge without a realm": {challenge: func(*tokenServer) string { return `Bearer service="x"` }, config: bob("").config,
			class: container.ErrInvalid, says: "realm"},
		"realm that is a path": {challenge: func(*tokenServer) string { return `Bearer realm="/token"` }, config: bob("").config,
			class: container.ErrInvalid, says: "realm"},
		"realm in the clear, on a network": {challenge: func(*tokenServer) string { return `Bearer realm="http://auth.example.com/token"` }, config: bob("").config,
			class: container.ErrInvalid, says: "only https"},
		"realm that is the metadata service": {challenge: func(*tokenServer) string { return `Bearer realm="http://169.254.169.254/latest"` }, config: bob("").config,
			class: container.ErrInvalid, says: "only https"},
		"realm that is a file": {challenge: func(*tokenServer) string { return `Bearer realm="file://localhost/etc/passwd"` }, config: bob("").config,
			class: container.ErrInvalid, says: "only https"},
		"way that berth does not know": {challenge: func(*tokenServer) string { return `Negotiate abc==` }, config: bob("").config,
			class: container.ErrDenied, says: "Basic, Bearer"},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := startTokenServer(t)
			tokens.answer = c.answer
			challenge := tokens.challenge()
			if c.challenge != nil {
				challenge = c.challenge(tokens)
			}
			var requests atomic.Int32
			host := serve(t, guarded("Bearer "+secretToken, challenge, &requests))
			_, err := newTestClient(user{host, c.config}).Manifest(context.Background(), mustName(t, host+"/a:b"))
			check(t, err, c.class, c.says, "fetch manifest of "+host+"/a:b")
			noSecrets(t, err)
			if got := requests.Load() + int32(len(tokens.asks)); got > 3 {
				t.Errorf("%d requests: it does not give up", got)
			}
		})
	}
}

// Who is told a secret may say it again, in an error text or a header.
func TestSecretsThatAreSentBack(t *testing.T) {
	want, _ := basicGrant(Credentials{Username: "bob", Password: secretPassword})
	for name, said := range map[string]string{
		"header":   want.header,
		"password": "bob has " + secretPassword + ", really",
	} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "" {
					w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
					w.WriteHeader(401)
					return
				}
				status(500, "application/json", `{"errors":[{"code":"X","message":"`+said+`"}]}`, "Retry-After", said)(w, r)
			})
			_, err := newTestClient(bob(host)).Manifest(context.Background(), mustName(t, host+"/a:b"))
			check(t, err, container.ErrUnavailable, "500")
			noSecrets(t, err)
		})
	}
}

func TestTokensArePerRepository(t *testing.T) {
	tokens := startTokenServer(t)
	var requests atomic.Int32
	host := serve(t, guarded("Bearer "+secretToken, `Bearer realm="http://`+tokens.host+`/token"`, &requests))
	c := newTestClient(bob(host))
	for _, repository := range []string{"a", "b", "a", "b"} {
		if _, err := c.Manifest(context.Background(), mustName(t, host+"/"+repository)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"GET /token?scope=repository%3Aa%3Apull", "GET /token?scope=repository%3Ab%3Apull"}
	if diff := cmp.Diff(want, tokens.asks); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	c := newTestClient(anonymous)
	for i := range 3 * maxSessions {
		c.session(mustEndpoint(t, c, fmt.Sprintf("r.example.com/a%d", i)))
	}
	if len(c.sessions) > maxSessions {
		t.Fatalf("%d sessions", len(c.sessions))
	}
}

// A client that waits for another one's token can be cancelled.
func TestCancelWhileATokenIsFetched(t *testing.T) {
	c := newTestClient(anonymous)
	n := mustName(t, "r.example.com/a")
	s := c.session(mustEndpoint(t, c, n.String()))
	if err := s.enter(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer s.leave()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Manifest(ctx, n); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Fatal(err)
	}
}

// A keychain knows registries by the names that images have them by.
func TestKeychainIsAskedForTheRegistry(t *testing.T) {
	for in, want := range map[string]string{
		"alpine":               "docker.io",
		"r.example.com:5000/a": "r.example.com:5000",
	} {
		c := newTestClient(user{want, Credentials{Username: "bob"}})
		e := mustEndpoint(t, c, in)
		config, err := c.keychain.Resolve(t.Context(), e.registry, e.repository)
		if err != nil || config.Username != "bob" {
			t.Errorf("%s: %+v, %v", in, config, err)
		}
	}
}

func TestBlobWithToken(t *testing.T) {
	const content = "the content"
	tokens := startTokenServer(t)
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secretToken {
			w.Header().Set("WWW-Authenticate", tokens.challenge())
			w.WriteHeader(401)
			return
		}
		io.WriteString(w, content)
	})
	got, err := readBlob(newTestClient(bob(host)), mustName(t, host+"/a"), descriptorOf(content))
	if err != nil || got != content {
		t.Fatalf("%q, %v", got, err)
	}
}
