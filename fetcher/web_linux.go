package fetcher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"berth/container"
	"berth/internal/disk"
)

const (
	// tries is how often a request is made that brings nothing.
	tries = 5
	// progress is what has to come for a try to have brought something.
	progress = 64 << 10
	// leastBytes is what has to come within the time that a transfer may stall.
	leastBytes                = 4 << 10
	longestPause, longestWait = 5 * time.Second, time.Minute
)

// firstPause is how long to wait after the first failure; tests do not want to wait.
var firstPause = 200 * time.Millisecond

// web downloads.
type web struct {
	client func() *http.Client
	stall  time.Duration
	limit  int64 // of the size of a file
}

func newWeb(stall time.Duration, limit int64) *web {
	return &web{client: sync.OnceValue(newClient), stall: stall, limit: limit}
}

func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // bytes as they are kept there
	transport.DisableKeepAlives = true  // nobody would end what is idle
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}
}

// checkRedirect lets no credential go to another host: neither a password nor, as the
// referrer, a query that is one.
func checkRedirect(r *http.Request, via []*http.Request) error {
	r.Header.Del("Referer")
	if r.URL.Host != via[0].URL.Host {
		r.Header.Del("Authorization")
	}
	if len(via) >= 10 {
		return fmt.Errorf("%w: it redirects more than 10 times", container.ErrInvalid)
	}
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return fmt.Errorf("%w: https redirects to %s", container.ErrInvalid, r.URL.Scheme)
	}
	return nil
}

// answer is the beginning of a download. The caller owes a close.
type answer struct {
	status             int
	size               int64 // -1: not said
	etag, lastModified string
	body               io.ReadCloser
	contentRange       string
}

// temporary is an error that a repetition may mend.
type temporary struct {
	error
	wait time.Duration // that the server asks for
}

func (t temporary) Unwrap() error { return t.error }

// get asks for a URL once. Its answer has status 200, or 206 or 304 if headers ask for them.
// ErrNotFound, ErrDenied, ErrUnavailable, ErrInvalid.
func (w *web) get(ctx context.Context, u *url.URL, headers http.Header) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		defer cancel(nil)
		return nil, reason(ctx, err)
	}
	request.Header = headers.Clone()
	request.Header.Set("User-Agent", "berth")
	if password, ok := u.User.Password(); ok || u.User.Username() != "" {
		request.SetBasicAuth(u.User.Username(), password)
	}
	guard := &stallGuard{ctx: ctx, cancel: cancel, limit: w.stall, left: w.stall}
	guard.timer = time.AfterFunc(w.stall, func() { cancel(errStalled) })
	response, err := w.client().Do(request)
	guard.timer.Stop()
	if err != nil {
		defer cancel(nil)
		return nil, guard.why(err)
	}
	guard.inner = response.Body
	if err := statusError(response, headers); err != nil {
		return nil, errors.Join(err, guard.Close())
	}
	return &answer{
		status: response.StatusCode, size: response.ContentLength, body: guard, contentRange: response.Header.Get("Content-Range"),
		etag: response.Header.Get("ETag"), lastModified: response.Header.Get("Last-Modified"),
	}, nil
}

// statusError says what an answer means that is not one of those asked for.
func statusError(r *http.Response, asked http.Header) error {
	conditional := asked.Get("If-None-Match") != "" || asked.Get("If-Modified-Since") != ""
	err := fmt.Errorf("the server answers %d %.40q", r.StatusCode, http.StatusText(r.StatusCode))
	switch code := r.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent && asked.Get("Range") != "", code == http.StatusNotModified && conditional:
		return nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return fmt.Errorf("%w: %w", container.ErrNotFound, err)
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fmt.Errorf("%w: %w", container.ErrDenied, err)
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		seconds, _ := strconv.Atoi(r.Header.Get("Retry-After"))
		wait := min(time.Duration(max(seconds, 0))*time.Second, longestWait)
		return temporary{fmt.Errorf("%w: %w", container.ErrUnavailable, err), wait}
	}
	return fmt.Errorf("%w: %w", container.ErrInvalid, err)
}

// reason is an error of the client without the URL, which may have credentials.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && cause != errStalled {
		return cause
	}
	var of *url.Error
	for errors.As(err, &of) {
		err = of.Err
	}
	if errors.Is(err, container.ErrInvalid) {
		return err
	}
	// Errors of these repeat what the server has sent, which may repeat what it was sent.
	if text := err.Error(); strings.Contains(text, "malformed") || strings.Contains(text, "Location header") {
		return fmt.Errorf("%w: the server's answer is malformed, or redirects to what is no URL", container.ErrInvalid)
	}
	return temporary{fmt.Errorf("%w: %w", container.ErrUnavailable, err), 0}
}

var errStalled = errors.New("stalled")

// stallGuard ends an answer that brings next to nothing for a while. The clock runs only
// while somebody waits for it.
type stallGuard struct {
	ctx         context.Context
	cancel      context.CancelCauseFunc
	inner       io.ReadCloser
	timer       *time.Timer
	limit, left time.Duration
	gained      int
}

func (g *stallGuard) Read(p []byte) (int, error) {
	g.timer.Reset(g.left)
	began := time.Now()
	n, err := g.inner.Read(p)
	g.timer.Stop()
	g.left = max(g.left-time.Since(began), 0)
	if g.gained += n; g.gained >= leastBytes {
		g.left, g.gained = g.limit, 0
	}
	if err != nil && err != io.EOF {
		err = g.why(err)
	}
	return n, err
}

func (g *stallGuard) why(err error) error {
	if context.Cause(g.ctx) == errStalled {
		return temporary{fmt.Errorf("%w: it stalls: less than %d bytes came within %s", container.ErrUnavailable, leastBytes, g.limit), 0}
	}
	return reason(g.ctx, err)
}

func (g *stallGuard) Close() error {
	err := g.inner.Close()
	g.cancel(nil)
	return err
}

// attempts counts what fails, and waits in between.
type attempts struct {
	failed int
	pause  time.Duration
}

// again waits and returns nil if there is to be another try after err.
func (a *attempts) again(ctx context.Context, err error) error {
	var t temporary
	if !errors.As(err, &t) {
		return err
	}
	if a.failed++; a.failed >= tries {
		return fmt.Errorf("%w (tried %d times)", err, a.failed)
	}
	a.pause = min(max(2*a.pause, firstPause), longestPause)
	select {
	case <-time.After(max(a.pause, t.wait)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask is get, again for as long as that may help.
func (w *web) ask(ctx context.Context, u *url.URL, headers http.Header) (*answer, error) {
	var a attempts
	for {
		got, err := w.get(ctx, u, headers)
		if err == nil {
			return got, nil
		}
		if err := a.again(ctx, err); err != nil {
			return nil, err
		}
	}
}

// transfer is a download into a file.
type transfer struct {
	web      *web
	url      *url.URL
	to       *disk.File
	sum      hash.Hash
	at       int64 // bytes in the file
	furthest int64
}

// download writes the whole content into a file that is empty or to be overwritten, and
// returns its size and digest. first is its answer already, or nil.
func (w *web) download(ctx context.Context, u *url.URL, first *answer, to *disk.File) (size int64, digest string, err error) {
	t := &transfer{web: w, url: u, to: to, sum: sha256.New()}
	var a attempts
	etag := ""
	for got := first; ; got = nil {
		if got == nil {
			got, err = w.get(ctx, u, t.rest(etag))
		}
		if err == nil {
			etag = got.etag
			err = errors.Join(t.take(ctx, got), got.body.Close())
		}
		if err == nil {
			return t.at, hex.EncodeToString(t.sum.Sum(nil)), os.NewSyscallError("ftruncate", disk.Ftruncate(int(to.Fd()), t.at))
		}
		if t.at >= t.furthest+progress {
			a, t.furthest = attempts{}, t.at
		}
		if err := a.again(ctx, err); err != nil {
			return 0, "", err
		}
	}
}

// rest asks for what is missing, if it can be told that it belongs to what is there.
func (t *transfer) rest(etag string) http.Header {
	h := http.Header{}
	if t.at > 0 && etag != "" && !strings.HasPrefix(etag, "W/") {
		h.Set("Range", fmt.Sprintf("bytes=%d-", t.at))
		h.Set("If-Range", etag)
	}
	return h
}

// take writes what an answer brings.
func (t *transfer) take(ctx context.Context, got *answer) error {
	if got.status != http.StatusPartialContent {
		t.at = 0
		t.sum.Reset()
	} else if !strings.HasPrefix(got.contentRange, fmt.Sprintf("bytes %d-", t.at)) {
		return fmt.Errorf("%w: asked for bytes from %d on, the server answers with %.80q", container.ErrInvalid, t.at, got.contentRange)
	}
	if t.at+max(got.size, 0) > t.web.limit {
		return t.tooLarge()
	}
	if _, err := t.to.Seek(t.at, io.SeekStart); err != nil {
		return err
	}
	return copyBytes(ctx, t.to, readerFunc(func(p []byte) (int, error) {
		n, err := got.body.Read(p)
		t.sum.Write(p[:n])
		if t.at += int64(n); t.at > t.web.limit {
			return 0, t.tooLarge()
		}
		return n, err
	}))
}

func (t *transfer) tooLarge() error {
	return fmt.Errorf("%w: it has more than %d bytes", container.ErrInvalid, t.web.limit)
}

// same reports whether an answer to a question for changes says that there are none.
func (a *answer) same(r record) bool {
	switch {
	case a.status == http.StatusNotModified:
		return true
	case a.etag != "" || r.ETag != "":
		return a.etag == r.ETag
	case a.size != r.Size:
		return false
	}
	return a.lastModified == r.LastModified
}

// changes asks for content that is not that of a record.
func changes(r record) http.Header {
	h := http.Header{}
	if r.ETag != "" {
		h.Set("If-None-Match", r.ETag)
	}
	if r.LastModified != "" {
		h.Set("If-Modified-Since", r.LastModified)
	}
	return h
}

// checkDigest compares what came with what a URI says; want "" is anything.
func checkDigest(got, want string) error {
	if want != "" && got != want {
		return fmt.Errorf("%w: its sha256 is %s, the URI says %s", container.ErrInvalid, cmp.Or(got, "unknown"), want)
	}
	return nil
}
