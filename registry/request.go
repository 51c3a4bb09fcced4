package registry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"berth/container"
)

const maxRedirects = 5

// resource is something in a repository.
type resource struct {
	method  string   // "" is GET
	path    []string // below the repository
	accept  string
	missing string // the remedy if it is not there
	// from asks for the bytes from here up to end, 0 for all.
	from, end int64
}

// reply is an answer and who gave it.
type reply struct {
	*http.Response
	url *url.URL
	// foreign: a redirect led away from the place that was asked. What it says of
	// credentials does not concern those of the registry.
	foreign bool
}

// place names the answering end in errors, without the query: it may be a signature
// that is as good as a password.
func (r *reply) place() string { return place(r.Response.Request.Method, r.url) }

func place(method string, u *url.URL) string {
	return method + " " + withoutQuery(u)
}

func withoutQuery(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// get fetches a resource from a place. The reply has the status 200; if only a part was
// asked for, perhaps 206 or 416. If the registry asks for credentials, it gets them, and the request is made
// a second time: never a third.
func (c *Client) get(ctx context.Context, e endpoint, r resource) (*reply, error) {
	session := c.session(e)
	request := request{by: e, method: cmp.Or(r.method, http.MethodGet), url: e.base.JoinPath(r.path...), accept: r.accept, header: e.header, from: r.from, end: r.end}
	granted, err := session.current(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := c.follow(ctx, request, granted)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusUnauthorized && !answer.foreign {
		refused := statusError(answer, e.sent(granted), deniedRemedy(e, granted))
		if granted, err = c.renew(ctx, session, e, granted, answer, refused); err != nil {
			return nil, err
		}
		if answer, err = c.follow(ctx, request, granted); err != nil {
			return nil, err
		}
	}
	ofRange := r.from > 0 && (answer.StatusCode == http.StatusPartialContent || answer.StatusCode == http.StatusRequestedRangeNotSatisfiable)
	if answer.StatusCode != http.StatusOK && !ofRange {
		return nil, statusError(answer, e.sent(granted), remedy(e, granted, answer, r))
	}
	return answer, nil
}

// request is what follow carries from place to place.
type request struct {
	by     endpoint // who leads to url; zero: nobody
	method string
	url    *url.URL
	accept string
	header http.Header // for the place itself, as credentials are
	// from and end are those of the resource.
	from, end int64
}

// follow gets a place and goes on where redirects lead. What was granted goes to
// the place itself and along redirects within its origin: once they left it, never
// again, even if they come back (CVE-2020-15157 was a registry that sent its reader, with
// credentials, to a host of its choice).
func (c *Client) follow(ctx context.Context, r request, granted grant) (*reply, error) {
	at, foreign := r.url, false
	been := map[string]bool{}
	for {
		been[at.String()] = true
		header := c.header(r.accept)
		if r.from > 0 {
			header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.from, r.end-1)) // some want the end stated
		}
		if !foreign {
			maps.Copy(header, r.header)
		}
		if !foreign && granted.header != "" {
			header.Set("Authorization", granted.header)
		}
		resp, err := c.send(ctx, r.by, r.method, at, header, nil)
		if err != nil {
			return nil, err
		}
		if !isRedirect(resp.StatusCode) {
			return &reply{Response: resp, url: at, foreign: foreign}, nil
		}
		discard(resp.Body)
		next, err := c.target(at, resp.Header.Get("Location"))
		switch {
		case err != nil:
		case been[next.String()]:
			err = fmt.Errorf("%w: redirects lead in a circle, back to %s", container.ErrInvalid, withoutQuery(next))
		case len(been) > maxRedirects:
			err = fmt.Errorf("%w: more than %d redirects", container.ErrInvalid, maxRedirects)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place(r.method, at), err)
		}
		foreign = foreign || origin(next) != origin(r.url)
		at = next
	}
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// target resolves a Location. Errors do not print it whole: see place.
func (c *Client) target(at *url.URL, location string) (*url.URL, error) {
	next, err := url.Parse(location)
	if err != nil || location == "" {
		return nil, fmt.Errorf("%w: a redirect without a usable Location", container.ErrInvalid)
	}
	next = at.ResolveReference(next)
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	if err := c.checkScheme(next, at.Scheme); err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	return next, nil
}

// checkScheme allows https, and plain http on loopback hosts and insecure registries for
// those who came by plain http themselves: nobody is led out of encryption.
func (c *Client) checkScheme(next *url.URL, from string) error {
	switch {
	case next.Hostname() == "":
		return fmt.Errorf("%w: a place without a host", container.ErrInvalid)
	case next.Scheme == "https":
		return nil
	case next.Scheme == "http" && from == "http" && c.mayBePlain(next):
		return nil
	case next.Scheme == "http" && from == "https":
		return fmt.Errorf("%w: it leads from https to plain http, to %s", container.ErrInvalid, next.Host)
	}
	return fmt.Errorf("%w: it leads to %s: only https is followed, and plain http on loopback hosts",
		container.ErrInvalid, withoutQuery(next))
}

// origin tells whether two places belong to one server: scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

func (c *Client) header(accept string) http.Header {
	header := http.Header{}
	header.Set("User-Agent", c.userAgent)
	// Digests are of the bytes as stored; no header at all would mean "any coding".
	header.Set("Accept-Encoding", "identity")
	if accept != "" {
		header.Set("Accept", accept)
	}
	return header
}

// send makes one request, without following anything. http.Client is not used: it
// keeps credentials on other ports and sub-domains, and prints whole URLs in errors.
// by is that of transports.of. The body of the answer ends when it stalls, and is to be closed.
func (c *Client) send(ctx context.Context, by endpoint, method string, u *url.URL, header http.Header, form io.Reader) (*http.Response, error) {
	guarded, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(guarded, method, u.String(), form)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%s: %w: not a valid request", place(method, u), container.ErrInvalid)
	}
	req.Header = header
	transport, err := c.transports.of(u, by)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%s: %w", place(method, u), err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%s: %w", place(method, u), networkError(ctx, err))
	}
	resp.Request = req
	resp.Body = newStallBody(ctx, guarded, cancel, resp.Body, c.stall)
	return resp, nil
}

// discard reads the little that answers without content have, so that their
// connection is used again.
func discard(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 16<<10)
	body.Close()
}
