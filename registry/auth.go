package registry

import (
	"context"
	"encoding/base64"
	"fmt"

	"berth/container"
)

// grant is what lets requests into a repository. The zero grant lets in where no
// credentials are asked for.
type grant struct {
	header string // of the field Authorization
	// secrets must not be printed, whoever says them.
	secrets []string
	// credentials of the user stand behind it; else it is an anonymous token.
	credentials bool
}

// session is what a client knows of one repository. Tokens are per repository, and
// a token that serves for one may be refused for its neighbour.
type session struct {
	turn  chan struct{} // holds one element when nobody is at work here
	grant grant
}

func (c *Client) session(e endpoint) *session {
	key := e.base.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, found := c.sessions[key]; found {
		return s
	}
	if len(c.sessions) >= maxSessions {
		clear(c.sessions) // costs each of them one more request
	}
	s := &session{turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	c.sessions[key] = s
	return s
}

// enter waits for whoever fetches a token for the session, so that parallel
// requests share one.
func (s *session) enter(ctx context.Context) error {
	select {
	case <-s.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) leave() { s.turn <- struct{}{} }

func (s *session) current(ctx context.Context) (grant, error) {
	if err := s.enter(ctx); err != nil {
		return grant{}, err
	}
	defer s.leave()
	return s.grant, nil
}

// renew replaces the grant that a registry refused with a 401; refused is the
// error that it is if no other grant can be had.
func (c *Client) renew(ctx context.Context, s *session, e endpoint, used grant, answer *reply, refused error) (grant, error) {
	if err := s.enter(ctx); err != nil {
		return grant{}, err
	}
	defer s.leave()
	if s.grant.header != used.header {
		return s.grant, nil // another request was here first
	}
	renewed, err := c.authorize(ctx, e, answer)
	switch {
	case err != nil:
		return grant{}, err
	case renewed.header == used.header:
		return grant{}, refused
	}
	s.grant = renewed
	return renewed, nil
}

// authorize answers a 401.
func (c *Client) authorize(ctx context.Context, e endpoint, answer *reply) (grant, error) {
	credentials, err := c.keychain.Resolve(ctx, e.registry, e.repository)
	if err != nil {
		return grant{}, fmt.Errorf("look up credentials for %s: %w", e.registry, err)
	}
	challenges := parseChallenges(answer.Header.Values("WWW-Authenticate"))
	basic, hasBasic := basicGrant(credentials)
	bearer, wantsBearer := pick(challenges, "bearer")
	_, wantsBasic := pick(challenges, "basic")
	switch {
	case credentials.RegistryToken != "":
		return bearerGrant(credentials.RegistryToken, true), nil
	case wantsBearer:
		return c.fetchToken(ctx, tokenRequest{endpoint: e, from: answer.url, challenge: bearer, credentials: credentials, basic: basic})
	case wantsBasic && hasBasic:
		return basic, nil
	case wantsBasic:
		return grant{}, fmt.Errorf("%s: %w: it asks for a password: %s", answer.place(), container.ErrDenied, deniedRemedy(e, grant{}))
	}
	return grant{}, fmt.Errorf("%s: %w: the answer is 401 without a way to authenticate that berth knows (Basic, Bearer)",
		answer.place(), container.ErrDenied)
}

func bearerGrant(token string, credentials bool) grant {
	return grant{header: "Bearer " + token, secrets: []string{token}, credentials: credentials}
}

// basicGrant is false, and the zero grant, without a name or password.
func basicGrant(c Credentials) (grant, bool) {
	if c.Username == "" && c.Password == "" {
		return grant{}, false
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	return grant{header: "Basic " + encoded, secrets: []string{encoded, c.Password}, credentials: true}, true
}
