package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"berth/container"
)

// maxTokenAnswer is far above the tokens of today, some of which have 10 KiB.
const maxTokenAnswer = 256 << 10

// tokenRequest is a Bearer challenge and what there is to answer it.
type tokenRequest struct {
	endpoint
	from        *url.URL // whose challenge it is
	challenge   challenge
	credentials Credentials
	basic       grant // of the credentials
}

// scope is what the registry asks for, or else what pulling needs.
func (r tokenRequest) scope() string {
	return cmp.Or(r.challenge.parameters["scope"], "repository:"+r.repository+":pull")
}

// fetchToken trades credentials, or none, for a token at the place that the
// challenge names.
func (c *Client) fetchToken(ctx context.Context, r tokenRequest) (grant, error) {
	realm, err := c.realm(r)
	if err != nil {
		return grant{}, err
	}
	granted, err := c.askForToken(ctx, realm, r)
	if err != nil {
		return grant{}, fmt.Errorf("fetch token: %w", err)
	}
	return granted, nil
}

// realm is the registry's word, and the credentials are the registry's: they may
// go where it says, but not in the clear.
func (c *Client) realm(r tokenRequest) (*url.URL, error) {
	realm, err := url.Parse(r.challenge.parameters["realm"])
	if err != nil || realm.Host == "" {
		return nil, fmt.Errorf("%s: %w: the answer is 401 with a Bearer challenge whose realm is not the URL of a token server",
			place(http.MethodGet, r.from), container.ErrInvalid)
	}
	realm.User, realm.Fragment, realm.RawFragment = nil, "", ""
	if err := c.checkScheme(realm, r.from.Scheme); err != nil {
		return nil, fmt.Errorf("token server of %s: %w", r.registry, err)
	}
	return realm, nil
}

func (c *Client) askForToken(ctx context.Context, realm *url.URL, r tokenRequest) (grant, error) {
	ask := c.getToken
	if r.credentials.IdentityToken != "" {
		ask = c.postToken
	}
	answer, err := ask(ctx, realm, r)
	if err != nil {
		return grant{}, err
	}
	defer discard(answer.Body)
	token, err := readToken(answer.Response)
	if err != nil {
		return grant{}, fmt.Errorf("%s: %w", answer.place(), err)
	}
	return bearerGrant(token, r.basic.credentials || r.credentials.IdentityToken != ""), nil
}

// getToken is Docker's "Token Authentication Specification".
func (c *Client) getToken(ctx context.Context, realm *url.URL, r tokenRequest) (*reply, error) {
	query := realm.Query()
	if service := r.challenge.parameters["service"]; service != "" {
		query.Set("service", service)
	}
	query.Set("scope", r.scope())
	withQuery := *realm
	withQuery.RawQuery = query.Encode()
	answer, err := c.follow(ctx, request{by: r.endpoint, url: &withQuery, accept: "application/json"}, r.basic)
	if err != nil {
		return nil, err
	}
	return c.okToken(answer, r, r.basic)
}

// postToken is Docker's "OAuth2 Token Authentication": the credentials are a token
// that lasts. It is in the body, so redirects are not followed.
func (c *Client) postToken(ctx context.Context, realm *url.URL, r tokenRequest) (*reply, error) {
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {r.credentials.IdentityToken},
		"client_id":     {c.userAgent},
		"service":       {r.challenge.parameters["service"]},
		"scope":         {r.scope()},
	}
	header := c.header("application/json")
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.send(ctx, r.endpoint, http.MethodPost, realm, header, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	sent := grant{secrets: []string{r.credentials.IdentityToken}, credentials: true}
	return c.okToken(&reply{Response: resp, url: realm}, r, sent)
}

func (c *Client) okToken(answer *reply, r tokenRequest, sent grant) (*reply, error) {
	if answer.StatusCode != http.StatusOK {
		return nil, statusError(answer, sent, remedy(r.endpoint, sent, answer, resource{}))
	}
	return answer, nil
}

// readToken does not print what it cannot read: it may be a token all the same.
func readToken(resp *http.Response) (string, error) {
	body, err := readAll(resp.Body, maxTokenAnswer)
	if err != nil {
		return "", err
	}
	var said struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"` // the name that OAuth2 has for it
	}
	if json.Unmarshal(body, &said) != nil {
		return "", fmt.Errorf("%w: the token server's answer is not JSON with a token", container.ErrInvalid)
	}
	token := cmp.Or(said.Token, said.AccessToken)
	switch {
	case token == "":
		return "", fmt.Errorf("%w: the token server's answer has no token", container.ErrInvalid)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("%w: the token server's answer is not a token that fits into a header", container.ErrInvalid)
	}
	return token, nil
}
