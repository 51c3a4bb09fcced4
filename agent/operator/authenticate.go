package operator

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"golang.org/x/time/rate"

	"berth/container"
	"berth/internal/strictjson"
)

// realm is what a client is asked for a password of.
const realm = `Basic realm="mesos-agent-readwrite"`

// Credentials are the secrets of principals.
type Credentials struct {
	secrets map[string][sha256.Size]byte
}

// ParseCredentials reads the credentials of Mesos, as JSON:
//
//	{"credentials": [{"principal": "ops", "secret": "..."}]}
//
// ErrInvalid: they are not understood, or a principal is there twice or has no secret. No
// error has a secret in it.
func ParseCredentials(text []byte) (*Credentials, error) {
	var document struct {
		Credentials []struct {
			Principal string `json:"principal"`
			Secret    string `json:"secret"`
		} `json:"credentials"`
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("credentials: %w: they are not JSON", container.ErrInvalid)
	}
	if err := strictjson.Decode(text, maxACLs, &document); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	c := &Credentials{secrets: make(map[string][sha256.Size]byte)}
	for _, one := range document.Credentials {
		_, twice := c.secrets[one.Principal]
		switch {
		case one.Principal == "" || one.Secret == "":
			return nil, fmt.Errorf("credentials: %w: one lacks its principal or its secret", container.ErrInvalid)
		case twice:
			return nil, fmt.Errorf("credentials: %w: the principal %q is there twice", container.ErrInvalid, one.Principal)
		}
		c.secrets[one.Principal] = sha256.Sum256([]byte(one.Secret))
	}
	return c, nil
}

// check takes the same time for every wrong secret.
func (c *Credentials) check(principal, secret string) bool {
	if c == nil {
		return false
	}
	want, known := c.secrets[principal]
	got := sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && known
}

// BySocket lets everybody do everything: the listener is one that only root can reach.
func BySocket(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(WithSubject(r.Context(), Subject{})))
	})
}

// Access is who may come by TCP.
type Access struct {
	Credentials *Credentials // nil: nobody has a secret
	ACLs        *ACLs        // nil: nobody may anything
}

// ByPassword lets those through who show who they are, by a client certificate that the
// listener has verified (its common name is the principal) or by a name and a secret, with
// the rights that the ACLs give them. GET /health is for everybody. access is asked at each
// call: what it says may change.
//
// A principal may ask CallsPerSecond times a second, a few more at once; guesses at secrets are
// counted together.
func ByPassword(access func() Access, next http.Handler) http.Handler {
	var limits limiters
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := access()
		principal, ok := principalOf(r, now.Credentials)
		if !limits.allow(principal, ok) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many calls; try again in a second", http.StatusTooManyRequests)
			return
		}
		if !ok && r.URL.Path != "/health" {
			w.Header().Set("WWW-Authenticate", realm)
			http.Error(w, "say who you are: by name and secret (--http_credentials), or by a client certificate", http.StatusUnauthorized)
			return
		}
		if !ok {
			principal = "nobody"
		}
		next.ServeHTTP(w, r.WithContext(WithSubject(r.Context(), Subject{Principal: principal, ACLs: now.ACLs})))
	})
}

func principalOf(r *http.Request, credentials *Credentials) (principal string, ok bool) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if name := r.TLS.VerifiedChains[0][0].Subject.CommonName; name != "" {
			return name, true
		}
	}
	principal, secret, given := r.BasicAuth()
	return principal, given && principal != "" && credentials.check(principal, secret)
}

// CallsPerSecond is how often a principal may ask, on average, and how often all those
// together may whom nobody knows.
const (
	CallsPerSecond        = 100
	unknownCallsPerSecond = 10
)

// limiters has one limiter for each principal that has shown who they are, and one for all
// others: their number is bounded by those who were given credentials.
type limiters struct {
	mu  sync.Mutex
	all map[string]*rate.Limiter
}

func (l *limiters) allow(principal string, known bool) bool {
	limit := rate.Limit(CallsPerSecond)
	if !known {
		principal, limit = "", unknownCallsPerSecond
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make(map[string]*rate.Limiter)
	}
	limiter, ok := l.all[principal]
	if !ok {
		limiter = rate.NewLimiter(limit, 5*int(limit))
		l.all[principal] = limiter
	}
	return limiter.Allow()
}
