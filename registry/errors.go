package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"berth/container"
)

// networkError classes the failure of a request that got no answer, or half of one.
func networkError(ctx context.Context, err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		err = withURL.Err // a URL may carry secrets, and the caller states the place
	}
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &certificate):
		return fmt.Errorf("%w: %w: if the certificate is the right one, put its authority into /etc/docker/certs.d/HOST[:PORT]/ca.crt or add it to those that this host trusts",
			container.ErrFailedPrecondition, err)
	case errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/":
		return fmt.Errorf("%w: the registry speaks plain http, which berth speaks on loopback hosts only: give the registry a certificate",
			container.ErrNotSupported)
	}
	if errors.Is(err, io.EOF) {
		// Not wrapped: who reads a blob must never take it for the blob's end.
		return fmt.Errorf("%w: the connection was closed", container.ErrUnavailable)
	}
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("%w: %w: is the name right, and does a registry listen there?", container.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", container.ErrUnavailable, err)
}

// statusError turns an answer other than 200 into an error, and closes it.
func statusError(r *reply, granted grant, remedy string) error {
	defer discard(r.Body)
	text := fmt.Sprintf("the answer is %d %s", r.StatusCode, http.StatusText(r.StatusCode))
	if said := message(r.Response, granted); said != "" {
		text += " (" + said + ")"
	}
	if wait := clean(r.Header.Get("Retry-After"), granted); wait != "" {
		text += ", Retry-After: " + wait
	}
	if remedy != "" {
		text += ": " + remedy
	}
	err := fmt.Errorf("%s: %w: %s", r.place(), statusClass(r), text)
	if wait, ok := parseRetryAfter(r.Header.Get("Retry-After"), time.Now()); ok {
		return &busyError{err, wait}
	}
	return err
}

func statusClass(r *reply) error {
	switch status := r.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		if r.foreign {
			// A storage host refuses the signature in the URL that it was asked with,
			// for example because it expired. The registry makes a new one next time.
			return container.ErrUnavailable
		}
		return container.ErrDenied
	case status == http.StatusNotFound:
		return container.ErrNotFound
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return container.ErrUnavailable
	}
	return container.ErrInvalid
}

// remedy says what a person can do about an answer.
func remedy(e endpoint, granted grant, r *reply, wanted resource) string {
	switch {
	case r.StatusCode == http.StatusNotFound:
		return wanted.missing
	case r.StatusCode == http.StatusTooManyRequests:
		return "wait, or log in: " + loginRemedy(e)
	case errors.Is(statusClass(r), container.ErrDenied):
		return deniedRemedy(e, granted)
	case r.StatusCode == http.StatusBadRequest && r.url.Scheme == "http":
		return "berth speaks plain http on loopback hosts; a registry with TLS there has to listen on port 443, or have its authority in certs.d/" + e.base.Host
	}
	return ""
}

func deniedRemedy(e endpoint, granted grant) string {
	if granted.credentials {
		return fmt.Sprintf("the credentials for %s are wrong or not sufficient, or the name is: check it, or %s", e.registry, loginRemedy(e))
	}
	return fmt.Sprintf("no credentials for %s were used: check the name, or %s", e.registry, loginRemedy(e))
}

func loginRemedy(e endpoint) string {
	return fmt.Sprintf("store credentials as `docker login %s` does, in ~/.docker/config.json", e.registry)
}

// message extracts what a registry says about an error, as the distribution-spec
// has it ("Error Codes"). It is a stranger's text, and short.
func message(resp *http.Response, granted grant) string {
	const most = 16 << 10
	if !strings.Contains(resp.Header.Get("Content-Type"), "json") {
		return ""
	}
	body, err := readAll(resp.Body, most)
	if err != nil {
		return ""
	}
	var said struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &said) != nil || len(said.Errors) == 0 {
		return ""
	}
	first := said.Errors[0]
	return clean(strings.Trim(first.Code+": "+first.Message, ": "), granted)
}

// clean makes a stranger's text fit to print: one short line that holds nothing
// secret, even if the stranger sends back what it was sent.
func clean(s string, granted grant) string {
	const most = 200
	for _, secret := range granted.secrets {
		if secret != "" && strings.Contains(s, secret) {
			return ""
		}
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
