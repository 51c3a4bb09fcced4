package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/container"
	"berth/image"
)

const emptyIndex = `{"schemaVersion":2,"manifests":[]}`

func answer(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		io.WriteString(w, body)
	}
}

func status(code int, contentType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

// breakOff announces more than it sends.
func breakOff(contentType string, announced int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", fmt.Sprint(announced))
		io.WriteString(w, body)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func endless(contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
}

func TestHostileManifest(t *testing.T) {
	const index = image.MediaTypeOCIIndex
	wrong := image.DigestOf([]byte("something else")).String()
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		digest  image.Digest
		class   error
		says    []string
	}{
		"other bytes than the digest's": {answer(index, emptyIndex), image.Digest(wrong), container.ErrInvalid,
			[]string{wrong, image.DigestOf([]byte(emptyIndex)).String()}},
		"other bytes than it states": {status(200, index, emptyIndex, "Docker-Content-Digest", wrong), "", container.ErrInvalid, []string{"states the digest " + wrong}},
		"states no digest but a path": {status(200, index, emptyIndex, "Docker-Content-Digest", "../../etc/passwd"), "", container.ErrInvalid,
			[]string{"Docker-Content-Digest"}},
		"HTML page of a login portal":         {answer("text/html; charset=utf-8", "<html>log in"), "", container.ErrInvalid, []string{"is this a registry?", "HTML"}},
		"something else altogether":           {answer("image/png", "PNG"), "", container.ErrInvalid, []string{"image/png"}},
		"schema 1":                            {answer("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}"), "", container.ErrInvalid, []string{"no signatures"}},
		"4 MiB and a byte":                    {answer(index, strings.Repeat(" ", 4<<20+1)), "", container.ErrInvalid, []string{"more than 4194304 bytes"}},
		"endless body":                        {endless(index), "", container.ErrInvalid, []string{"more than 4194304 bytes"}},
		"truncated body":                      {breakOff(index, 1000, "{"), "", container.ErrUnavailable, []string{"unexpected EOF"}},
		"closed without an answer":            {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "", container.ErrUnavailable, []string{"connection was closed"}},
		"unknown tag, the registry's words":   {status(404, "application/json", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}`), "", container.ErrNotFound, []string{"MANIFEST_UNKNOWN: no such thing", "check the name and the tag"}},
		"unknown tag, no words":               {status(404, "text/html", "<html>"), "", container.ErrNotFound, []string{"404 Not Found"}},
		"forbidden":                           {status(403, "application/json", `{}`), "", container.ErrDenied, []string{"docker login", "config.json"}},
		"401 without a challenge":             {status(401, "application/json", `{}`), "", container.ErrDenied, []string{"401"}},
		"server fault":                        {status(500, "text/plain", "stack trace"), "", container.ErrUnavailable, []string{"500 Internal Server Error"}},
		"bad gateway with a page":             {status(502, "text/html", "<html>"), "", container.ErrUnavailable, []string{"502 Bad Gateway"}},
		"status 599":                          {status(599, "text/plain", ""), "", container.ErrUnavailable, []string{"599"}},
		"rate limit":                          {status(429, "application/json", `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`, "Retry-After", "120"), "", container.ErrUnavailable, []string{"TOOMANYREQUESTS: slow down", "Retry-After: 120", "log in"}},
		"rate limit until a date":             {status(429, "text/plain", "", "Retry-After", "Fri, 31 Dec 2027 23:59:59 GMT"), "", container.ErrUnavailable, []string{"Retry-After: Fri, 31 Dec 2027 23:59:59 GMT"}},
		"TLS server on a loopback port":       {status(400, "text/plain", "Client sent an HTTP request to an HTTPS server."), "", container.ErrInvalid, []string{"port 443"}},
		"part of the manifest":                {status(206, index, emptyIndex), "", container.ErrInvalid, []string{"206"}},
		"no content":                          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "", container.ErrInvalid, []string{"204"}},
		"not modified":                        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, "", container.ErrInvalid, []string{"304"}},
		"error text that floods the log":      {status(500, "application/json", `{"errors":[{"code":"X","message":"`+strings.Repeat("x", 10000)+`"}]}`), "", container.ErrUnavailable, nil},
		"error text that steers the terminal": {status(500, "application/json", `{"errors":[{"code":"X","message":"\u001b[2J\nforged: line"}]}`), "", container.ErrUnavailable, nil},
		"endless error text": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(500)
			endless("application/json")(w, r)
		}, "", container.ErrUnavailable, []string{"500"}},
		"error text that is not JSON": {status(500, "application/json", `<`), "", container.ErrUnavailable, []string{"500"}},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			host := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				c.handler(w, r)
			})
			n := mustName(t, host+"/a:b")
			n.Digest = c.digest
			raw, err := newTestClient(anonymous).Manifest(context.Background(), n)
			check(t, err, c.class, append(c.says, "fetch manifest of "+n.String()+": ", "GET http://"+host+"/v2/a/manifests/")...)
			if raw.Body != nil {
				t.Error("bytes beside an error")
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("control characters in %q", err)
			}
			if got := requests.Load(); got != 1 {
				t.Errorf("%d requests: a silent retry", got)
			}
		})
	}
}

func TestManifestOddButFine(t *testing.T) {
	digest := image.DigestOf([]byte(emptyIndex)).String()
	for name, c := range map[string]struct {
		handler   http.HandlerFunc
		mediaType string
	}{
		"type with parameters":          {answer(image.MediaTypeOCIIndex+"; charset=utf-8", emptyIndex), image.MediaTypeOCIIndex},
		"generic type":                  {answer("application/json", emptyIndex), ""},
		"type of text":                  {answer("text/plain; charset=utf-8", emptyIndex), ""},
		"digest stated":                 {status(200, image.MediaTypeOCIIndex, emptyIndex, "Docker-Content-Digest", digest), image.MediaTypeOCIIndex},
		"digest stated in another code": {status(200, image.MediaTypeOCIIndex, emptyIndex, "Docker-Content-Digest", "sha512:"+strings.Repeat("a", 128)), image.MediaTypeOCIIndex},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := newTestClient(anonymous).Manifest(context.Background(), mustName(t, serve(t, c.handler)+"/a:b"))
			if err != nil || raw.MediaType != c.mediaType || string(raw.Body) != emptyIndex || raw.Digest.String() != digest {
				t.Fatalf("%+v, %v", raw, err)
			}
		})
	}
}

func TestHostileBlob(t *testing.T) {
	const content = "the content of the layer"
	const octets = "application/octet-stream"
	flush := func(body string) http.HandlerFunc { // without Content-Length
		return func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			io.WriteString(w, body)
		}
	}
	other := strings.ToUpper(content)
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		class   error
		says    []string
	}{
		"other bytes":                  {answer(octets, other), container.ErrInvalid, []string{image.DigestOf([]byte(content)).String(), image.DigestOf([]byte(other)).String()}},
		"announces too little":         {answer(octets, content[:5]), container.ErrInvalid, []string{"it has 5 bytes, the manifest says 24"}},
		"announces too much":           {answer(octets, content+"!"), container.ErrInvalid, []string{"it has 25 bytes, the manifest says 24"}},
		"too little, not announced":    {flush(content[:5]), container.ErrUnavailable, []string{"ended early", "after 5 of 24 bytes"}},
		"nothing":                      {flush(""), container.ErrUnavailable, []string{"after 0 of 24 bytes"}},
		"a byte too much":              {flush(content + "!"), container.ErrInvalid, []string{"goes on after its 24 bytes"}},
		"the right bytes, without end": {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, content); endless(octets)(w, r) }, container.ErrInvalid, []string{"goes on after its 24 bytes"}},
		"truncated":                    {breakOff(octets, len(content), content[:7]), container.ErrUnavailable, []string{"unexpected EOF", "after 7 of 24 bytes"}},
		"forbidden":                    {status(403, octets, ""), container.ErrDenied, []string{"403", "docker login"}},
		"server fault":                 {status(503, octets, ""), container.ErrUnavailable, []string{"503"}},
		"rate limit":                   {status(429, octets, "", "Retry-After", "7"), container.ErrUnavailable, []string{"Retry-After: 7"}},
		"a part only":                  {status(206, octets, content), container.ErrInvalid, []string{"206"}},
	} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, c.handler)
			n := mustName(t, host+"/a:b")
			d := descriptorOf(content)
			got, err := readBlob(newTestClient(anonymous), n, d)
			check(t, err, c.class, append(c.says, fmt.Sprintf("fetch blob %s of %s: GET http://%s/v2/a/blobs/%s", d.Digest, n, host, d.Digest))...)
			if len(got) > len(content) {
				t.Errorf("%d bytes came out", len(got))
			}
			if errors.Is(err, io.EOF) {
				t.Errorf("%v could be taken for the end", err)
			}
		})
	}
}

func TestBlob(t *testing.T) {
	for _, content := range []string{"", "x", strings.Repeat("0123456789", 100_000)} {
		host := serve(t, answer("application/octet-stream", content))
		got, err := readBlob(newTestClient(anonymous), mustName(t, host+"/a:b"), descriptorOf(content))
		if err != nil || got != content {
			t.Fatalf("%d bytes of %d, %v", len(got), len(content), err)
		}
	}
}

// The end is decided once.
func TestBlobErrorStays(t *testing.T) {
	host := serve(t, answer("application/octet-stream", "xx"))
	d := descriptorOf("yy")
	r, err := newTestClient(anonymous).Blob(context.Background(), mustName(t, host+"/a:b"), d)
	if err != nil {
		t.Fatal(err)
	}
	_, first := io.ReadAll(r)
	n, second := r.Read(make([]byte, 10))
	check(t, first, container.ErrInvalid)
	if n != 0 || second != first {
		t.Fatalf("read %d bytes, %v after %v", n, second, first)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// flood is a transport whose answers never end; it counts what is taken.
type flood struct{ taken atomic.Int64 }

func (f *flood) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {image.MediaTypeOCIIndex}},
		ContentLength: -1, Body: io.NopCloser(f), Request: req}, nil
}

func (f *flood) Read(p []byte) (int, error) {
	clear(p)
	f.taken.Add(int64(len(p)))
	return len(p), nil
}

func TestEndlessBodiesAreNotBuffered(t *testing.T) {
	f := &flood{}
	c := NewClient(Options{Attempts: 1, Keychain: anonymous, Transport: f})
	n := mustName(t, "r.example.com/a:b")

	_, err := c.Manifest(context.Background(), n)
	check(t, err, container.ErrInvalid)
	if taken := f.taken.Swap(0); taken > image.MaxManifestSize+1 {
		t.Errorf("a manifest took %d bytes", taken)
	}

	const size = 64 << 20
	r, err := c.Blob(context.Background(), n, image.Descriptor{Digest: image.DigestOf(nil), Size: size})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = io.Copy(io.Discard, r)
	runtime.ReadMemStats(&after)
	check(t, err, container.ErrInvalid, "goes on after its 67108864 bytes")
	if taken := f.taken.Load(); taken != size+1 {
		t.Errorf("a blob took %d bytes, want %d", taken, size+1)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
		t.Errorf("a blob of %d bytes allocated %d", size, allocated)
	}
}

func TestStalledBodies(t *testing.T) {
	const content = "the content of the layer"
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", image.MediaTypeOCIIndex)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		io.WriteString(w, content[:3])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := NewClient(Options{Attempts: 1, Keychain: anonymous, Transport: newTestTransport(), StallTimeout: 50 * time.Millisecond})
	n := mustName(t, host+"/a:b")
	_, err := c.Manifest(context.Background(), n)
	check(t, err, container.ErrUnavailable, "less than 4096 bytes came within 50ms")
	_, err = readBlob(c, n, descriptorOf(content))
	check(t, err, container.ErrUnavailable, "less than 4096 bytes came within 50ms", "after 3 of 24 bytes")
}

// Neither a slow transfer nor a slow reader is a stalled one.
func TestSlowIsNotStalled(t *testing.T) {
	content := strings.Repeat("x", 20)
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range content {
			io.WriteString(w, content[i:i+1])
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	c := NewClient(Options{Attempts: 1, Keychain: anonymous, Transport: newTestTransport(), StallTimeout: 300 * time.Millisecond})
	r, err := c.Blob(context.Background(), mustName(t, host+"/a:b"), descriptorOf(content))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if rest, err := io.ReadAll(r); err != nil || len(rest) != len(content)-5 {
		t.Fatalf("%d bytes, %v", len(rest), err)
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := listener.Addr().String()
	listener.Close()
	_, err = newTestClient(anonymous).Manifest(context.Background(), mustName(t, host+"/a:b"))
	check(t, err, container.ErrUnavailable, "fetch manifest of "+host+"/a:b", "connection refused")
}

func TestNoAnswer(t *testing.T) {
	host := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	transport := newTestTransport()
	transport.ResponseHeaderTimeout = 50 * time.Millisecond
	c := NewClient(Options{Attempts: 1, Keychain: anonymous, Transport: transport})
	_, err := c.Manifest(context.Background(), mustName(t, host+"/a:b"))
	check(t, err, container.ErrUnavailable, "timeout awaiting response headers")
}

func TestPlainHTTPServerWhereHTTPSIsExpected(t *testing.T) {
	i := newInternet(t)
	i.addresses["r.example.com:443"] = serve(t, answer(image.MediaTypeOCIIndex, emptyIndex))
	_, err := NewClient(Options{Attempts: 1, Keychain: anonymous, Transport: i.transport}).Manifest(context.Background(), mustName(t, "r.example.com/a"))
	check(t, err, container.ErrNotSupported, "plain http", "certificate")
}

func TestUntrustedCertificate(t *testing.T) {
	i := newInternet(t)
	i.serve(t, answer(image.MediaTypeOCIIndex, emptyIndex), "r.example.com:443")
	i.transport.TLSClientConfig = nil
	_, err := NewClient(Options{Attempts: 1, Keychain: anonymous, Transport: i.transport}).Manifest(context.Background(), mustName(t, "r.example.com/a"))
	check(t, err, container.ErrFailedPrecondition, "certificate", "trusts")
}

func TestCancel(t *testing.T) {
	started := make(chan struct{}, 2)
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", image.MediaTypeOCIIndex)
		io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		started <- struct{}{}
		<-r.Context().Done()
	})
	c := newTestClient(anonymous)
	n := mustName(t, host+"/a:b")
	for name, fetch := range map[string]func(context.Context) error{
		"manifest": func(ctx context.Context) error { _, err := c.Manifest(ctx, n); return err },
		"blob": func(ctx context.Context) error {
			r, err := c.Blob(ctx, n, image.Descriptor{Digest: image.DigestOf(nil), Size: 10})
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				<-started
				cancel()
			}()
			if err := fetch(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, container.ErrUnavailable) {
				t.Fatalf("the error is %v", err)
			}
		})
	}
}

// The connections of a pull serve the next one.
func TestConnectionsAreReused(t *testing.T) {
	content := strings.Repeat("x", 100_000)
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(answer("application/octet-stream", content))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	c := newTestClient(anonymous)
	n := mustName(t, server.Listener.Addr().String()+"/a:b")
	for range 10 {
		if _, err := readBlob(c, n, descriptorOf(content)); err != nil {
			t.Fatal(err)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Fatalf("%d connections", got)
	}
}
