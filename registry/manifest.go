package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"berth/container"
	"berth/image"
)

// Raw is a manifest or an index as a registry sent it.
type Raw struct {
	// MediaType is for image.ParseManifest; "" if the registry sent a generic one.
	MediaType string
	// Body is the document, without the signatures of Docker's schema 1.
	Body []byte
	// Digest is that of Body.
	Digest image.Digest
}

// Manifest fetches the document that name's digest names, or else its tag.
//
// A nil error proves that Body has at most 4 MiB and that Digest is its digest, the
// one in name if there is one, and the one that the registry stated if it did. It says
// nothing of what is in Body. It may be repeated.
//
// The error is of class ErrNotFound for a name or tag that the registry does not
// know, ErrDenied if credentials are missing or insufficient, ErrUnavailable if the
// registry cannot be reached, fails, breaks off or asks to wait, ErrInvalid for bytes
// that are not those of the digest and other answers that no registry may give,
// ErrNotSupported for a registry that speaks only plain http, ErrFailedPrecondition for a certificate that this host does not trust. The error
// of ctx is passed on.
func (c *Client) Manifest(ctx context.Context, name image.Name) (Raw, error) {
	raw, err := c.fetchManifest(ctx, name)
	if err != nil {
		return Raw{}, fmt.Errorf("fetch manifest of %s: %w", name, err)
	}
	return raw, nil
}

func (c *Client) fetchManifest(ctx context.Context, name image.Name) (raw Raw, err error) {
	places, err := c.endpoints(name)
	if err != nil {
		return Raw{}, err
	}
	err = c.try(ctx, places, func(place endpoint) error {
		raw, err = c.manifestAt(ctx, place, name)
		return err
	})
	return raw, err
}

func (c *Client) manifestAt(ctx context.Context, place endpoint, name image.Name) (Raw, error) {
	which := name.Tag
	if name.Digest != "" {
		which = name.Digest.String()
	}
	reply, err := c.get(ctx, place, resource{
		path:    []string{"manifests", which},
		accept:  strings.Join(image.ManifestTypes(), ", "),
		missing: "check the name and the tag",
	})
	if err != nil {
		return Raw{}, err
	}
	defer reply.Body.Close()
	raw, err := readManifest(reply.Response, name.Digest)
	if err != nil {
		return Raw{}, fmt.Errorf("%s: %w", reply.place(), err)
	}
	return raw, nil
}

func readManifest(resp *http.Response, want image.Digest) (Raw, error) {
	mediaType, err := image.ManifestType(resp.Header.Get("Content-Type"))
	if err != nil {
		return Raw{}, fmt.Errorf("the answer is no manifest, is this a registry?: %w", err)
	}
	body, err := readAll(resp.Body, image.MaxManifestSize)
	if err != nil {
		return Raw{}, err
	}
	mediaType, payload, err := image.Canonical(mediaType, body)
	if err != nil {
		return Raw{}, err
	}
	raw := Raw{MediaType: mediaType, Body: payload, Digest: image.DigestOf(payload)}
	if want != "" && raw.Digest != want {
		return Raw{}, fmt.Errorf("%w: expected bytes with the digest %s, got %d bytes with %s",
			container.ErrInvalid, want, len(body), raw.Digest)
	}
	return raw, checkStated(resp.Header.Get("Docker-Content-Digest"), raw)
}

// checkStated compares with the digest that the registry claims. By tag it is the
// only sign of a broken proxy on the way.
func checkStated(header string, raw Raw) error {
	if header == "" {
		return nil
	}
	stated, err := image.ParseDigest(header)
	switch {
	case errors.Is(err, container.ErrNotSupported): // another algorithm: nothing to compare
		return nil
	case err != nil:
		return fmt.Errorf("its Docker-Content-Digest: %w", err)
	case stated != raw.Digest:
		return fmt.Errorf("%w: the registry states the digest %s, got %d bytes with %s",
			container.ErrInvalid, stated, len(raw.Body), raw.Digest)
	}
	return nil
}

// readAll reads a body of at most most bytes.
func readAll(body io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%w: the answer has more than %d bytes", container.ErrInvalid, most)
	}
	return b, err
}
