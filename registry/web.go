package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"berth/container"
)

// Download opens a place on the web that is no registry's, an Appc image for instance. size
// is -1 when it is not known. Nothing is known of the bytes: whoever reads them has to
// verify them.
//
// The place may be https or plain http, as whoever names it has decided; redirects are
// followed as for registries, so to plain http on loopback hosts only. No credentials are
// sent. Errors are those of Manifest; the reader is to be closed, and ends with ctx and when
// it stalls.
func (c *Client) Download(ctx context.Context, place string) (body io.ReadCloser, size int64, err error) {
	u, err := url.Parse(place)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, 0, fmt.Errorf("%.200q: %w: it is not the URL of a place on the web", place, container.ErrInvalid)
	case u.User != nil:
		return nil, 0, fmt.Errorf("%.200q: %w: a place with a user or a password", u.Redacted(), container.ErrInvalid)
	}
	reply, err := c.follow(ctx, request{url: u}, grant{})
	if err != nil {
		return nil, 0, err
	}
	if reply.StatusCode != http.StatusOK {
		return nil, 0, statusError(reply, grant{}, "")
	}
	return reply.Body, reply.ContentLength, nil
}
