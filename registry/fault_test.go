package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/container"
	"berth/image"
)

// blobServer serves one blob, with ranges, and counts what it sends.
type blobServer struct {
	content []byte
	sent    atomic.Int64 // bytes of the blob

	mu       sync.Mutex
	requests []string // values of Range
	before   func(n int, w http.ResponseWriter, r *http.Request) bool
	limit    func(n int) int // bytes of the n-th answer, before the connection breaks
	noRange  bool
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(b)
	return b
}

func (s *blobServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n := len(s.requests)
	s.requests = append(s.requests, r.Header.Get("Range"))
	s.mu.Unlock()
	if s.before != nil && s.before(n, w, r) {
		return
	}
	body := s.content
	if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !s.noRange {
		first, err := strconv.Atoi(strings.TrimSuffix(from, fmt.Sprintf("-%d", len(body)-1)))
		if err != nil || first >= len(body) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, len(body)-1, len(body)))
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-first))
		w.WriteHeader(http.StatusPartialContent)
		body = body[first:]
	} else {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	if s.limit != nil {
		if most := s.limit(n); most < len(body) {
			s.write(w, body[:most])
			panic(http.ErrAbortHandler)
		}
	}
	s.write(w, body)
}

func (s *blobServer) write(w http.ResponseWriter, body []byte) {
	n, _ := w.Write(body)
	s.sent.Add(int64(n))
	w.(http.Flusher).Flush()
}

func (s *blobServer) ranges() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.requests...)
}

func (s *blobServer) descriptor() image.Descriptor { return descriptorOf(string(s.content)) }

// quickClient tries again soon.
func quickClient(o Options) *Client {
	if o.Keychain == nil {
		o.Keychain = anonymous
	}
	if o.Transport == nil {
		o.Transport = newTestTransport()
	}
	o.Backoff = time.Millisecond
	return NewClient(o)
}

// The faults that a registry or the network may have: each pull ends right, or with one
// clear error, and transfers little more than the blob.
func TestFaults(t *testing.T) {
	const size = 3 << 20
	cut := func(most int) func(int) int { return func(int) int { return most } }
	once := func(code int, header ...string) func(int, http.ResponseWriter, *http.Request) bool {
		return func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				status(code, "text/plain", "", header...)(w, r)
			}
			return n == 0
		}
	}
	always := func(h http.HandlerFunc) func(int, http.ResponseWriter, *http.Request) bool {
		return func(_ int, w http.ResponseWriter, r *http.Request) bool { h(w, r); return true }
	}
	second := func(h http.HandlerFunc) (func(int, http.ResponseWriter, *http.Request) bool, func(int) int) {
		return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 1 {
					h(w, r)
				}
				return n == 1
			}, func(n int) int {
				if n == 0 {
					return size / 2
				}
				return size
			}
	}
	type fault struct {
		before func(int, http.ResponseWriter, *http.Request) bool
		limit  func(int) int
		plain  bool // no ranges
		class  error
		says   string
	}
	faults := map[string]fault{
		"none":                            {},
		"reset after 100 000 bytes":       {limit: cut(100_000)},
		"reset after 1 MB":                {limit: cut(1_000_000)},
		"reset at once, always":           {limit: cut(0), class: container.ErrUnavailable, says: "after 0 of"},
		"429 once":                        {before: once(429)},
		"429 once, wait 0 s":              {before: once(429, "Retry-After", "0")},
		"429 always":                      {before: always(status(429, "text/plain", "")), class: container.ErrUnavailable, says: "429 Too Many Requests"},
		"429, wait an hour":               {before: once(429, "Retry-After", "3600"), class: container.ErrUnavailable, says: "Retry-After: 3600"},
		"503 once":                        {before: once(503)},
		"500 once":                        {before: once(500)},
		"502 always":                      {before: always(status(502, "text/html", "<html>")), class: container.ErrUnavailable, says: "502 Bad Gateway"},
		"404":                             {before: always(status(404, "text/plain", "")), class: container.ErrNotFound, says: "404"},
		"wrong length":                    {before: always(answer("application/octet-stream", "short")), class: container.ErrInvalid, says: "it has 5 bytes"},
		"other bytes of the right length": {before: always(answer("application/octet-stream", strings.Repeat("x", size))), class: container.ErrInvalid, says: "expected bytes with the digest"},
		"a page as the content":           {before: always(answer("text/html", "<html>")), class: container.ErrInvalid, says: "it has 6 bytes"},
		"ranges are ignored, no reset":    {plain: true},
		"ranges are ignored, reset at once": {plain: true, limit: cut(500_000),
			class: container.ErrUnavailable, says: "does not go on in the middle"},
	}
	for name, h := range map[string]http.HandlerFunc{
		"another range than asked for": status(206, "application/octet-stream", "x", "Content-Range", fmt.Sprintf("bytes 0-%d/%d", size-1, size)),
		"a range of another blob":      status(206, "application/octet-stream", "x", "Content-Range", fmt.Sprintf("bytes %d-%d/%d", size/2, size, size+1)),
		"a range without its place":    status(206, "application/octet-stream", "x"),
	} {
		before, limit := second(h)
		faults["in the middle: "+name] = fault{before: before, limit: limit, class: container.ErrInvalid, says: "fetch blob"}
	}
	for name, h := range map[string]http.HandlerFunc{
		"503": status(503, "text/plain", ""), "429": status(429, "text/plain", "", "Retry-After", "0"),
		"closed": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		before, limit := second(h)
		faults["in the middle: "+name] = fault{before: before, limit: limit}
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			server := &blobServer{content: randomBytes(size), before: f.before, limit: f.limit, noRange: f.plain}
			host := serve(t, server.ServeHTTP)
			got, err := readBlob(quickClient(Options{}), mustName(t, host+"/a:b"), server.descriptor())
			if f.class != nil {
				check(t, err, f.class, f.says)
			} else if err != nil || got != string(server.content) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if sent := server.sent.Load(); !f.plain && sent > size*105/100 {
				t.Errorf("%d bytes were sent, of a blob of %d", sent, size)
			}
			if asked := len(server.ranges()); asked > 40 {
				t.Errorf("%d requests", asked)
			}
		})
	}
}

// Where a server that cannot continue breaks off once, the bytes are those of the blob.
func TestIgnoredRangeIsReadAgain(t *testing.T) {
	server := &blobServer{content: randomBytes(1 << 20), noRange: true, limit: func(n int) int {
		if n == 0 {
			return 600_000
		}
		return 1 << 20
	}}
	host := serve(t, server.ServeHTTP)
	got, err := readBlob(quickClient(Options{}), mustName(t, host+"/a"), server.descriptor())
	if err != nil || got != string(server.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// What an earlier process has kept is not fetched again.
func TestBlobFromWhatWasKept(t *testing.T) {
	content := randomBytes(1 << 20)
	for name, c := range map[string]struct {
		kept  []byte
		asked []string
		class error
	}{
		"nothing": {nil, []string{""}, nil},
		"half":    {content[:1<<19], []string{"bytes=524288-1048575"}, nil},
		"all":     {content, []string{}, nil},
		"damaged": {append(make([]byte, 100), content[100:1<<19]...), []string{"bytes=524288-1048575"}, container.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			server := &blobServer{content: content}
			host := serve(t, server.ServeHTTP)
			b, err := quickClient(Options{}).BlobFrom(t.Context(), mustName(t, host+"/a"), server.descriptor(), bytes.NewReader(c.kept), int64(len(c.kept)))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			got, err := io.ReadAll(b)
			if !errors.Is(err, c.class) || c.class == nil && !bytes.Equal(got, content) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if asked := server.ranges(); fmt.Sprint(asked) != fmt.Sprint(c.asked) {
				t.Errorf("asked for %q, want %q", asked, c.asked)
			}
		})
	}
}

// A token that expires while a layer is in flight, MESOS-9221: each is good for one request.
func TestTokenThatExpiresInMidBlob(t *testing.T) {
	server := &blobServer{content: randomBytes(1 << 20), limit: func(int) int { return 300_000 }}
	var issued, used atomic.Int32
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			fmt.Fprintf(w, `{"token":"token-%d"}`, issued.Add(1))
			return
		}
		if last := issued.Load(); last > used.Load() && r.Header.Get("Authorization") == fmt.Sprintf("Bearer token-%d", last) {
			used.Store(last)
			server.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, r.Host))
		w.WriteHeader(401)
	})
	got, err := readBlob(quickClient(Options{Keychain: bob(host)}), mustName(t, host+"/a"), server.descriptor())
	if err != nil || got != string(server.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if issued.Load() != 4 || server.sent.Load() > 1<<20 {
		t.Errorf("%d tokens, %d bytes", issued.Load(), server.sent.Load())
	}
}

func TestDripIsAStall(t *testing.T) {
	server := &blobServer{content: randomBytes(1 << 20)}
	server.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "1048576")
		for i := 0; r.Context().Err() == nil; i++ {
			w.Write(server.content[i : i+1])
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
		return true
	}
	host := serve(t, server.ServeHTTP)
	c := quickClient(Options{StallTimeout: 100 * time.Millisecond, Attempts: 2})
	_, err := readBlob(c, mustName(t, host+"/a"), server.descriptor())
	check(t, err, container.ErrUnavailable, "less than 4096 bytes")
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	host := serve(t, status(503, "text/plain", "", "Retry-After", "50"))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := quickClient(Options{}).Manifest(ctx, mustName(t, host+"/a"))
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2015 03:04:35 GMT": 0, "": -1, "-1": -1, "soon": -1, "1.5": -1, "99999999999999999999": -1,
	} {
		got, ok := parseRetryAfter(in, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestContentRange(t *testing.T) {
	for in, good := range map[string]bool{
		"bytes 5-9/10": true, "bytes 5-9/*": true, "BYTES 5-9/10": true,
		"": false, "bytes": false, "bytes 5-9": false, "bytes 4-9/10": false, "bytes 5-8/10": false, "bytes 5-9/11": false,
		"items 5-9/10": false, "bytes */10": false, "bytes -5-9/10": false, "bytes +5-9/10": false, "bytes 9-5/10": false,
		"bytes 5-99999999999999999999/10": false, "bytes 5-9/9": false,
	} {
		if err := checkRange(in, 5, 10, 10); (err == nil) != good || err != nil && !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes 0-0/*")
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, err := parseContentRange(s)
		if err == nil && (first < 0 || last < first || total >= 0 && last >= total) {
			t.Fatalf("%q: %d-%d/%d", s, first, last, total)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Fri, 31 Dec 2027 23:59:59 GMT")
	f.Fuzz(func(t *testing.T, s string) {
		if wait, ok := parseRetryAfter(s, time.Unix(0, 0)); ok && wait < 0 {
			t.Fatalf("%q: %s", s, wait)
		}
	})
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"r.example.com":{"auth":"Ym9iOnNlY3JldA=="}}}`))
	f.Add([]byte(`{"https://index.docker.io/v1/":{"auth":"Ym9iOnNlY3JldA==","email":"b@example.com"}}`))
	f.Add([]byte(`{"credsStore":"x","credHelpers":{"r.example.com":"y"}}`))
	f.Add([]byte(`{"auths":{"https://r.example.com:443/v1/":{"identitytoken":"a"},"r.example.com/a":{"registrytoken":"b"},"x":{"username":"a","password":"b"}}}`))
	f.Add([]byte(`{"auths":{"r.example.com":{"auth":"Ym9i"},"":{"auth":"*"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		config, err := ParseDockerConfig(text)
		if err != nil {
			if !errors.Is(err, container.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if config.store != "" || len(config.helpers) > 0 {
			return // it would run programs
		}
		if _, err := config.Resolve(t.Context(), "r.example.com", "a"); err != nil {
			t.Fatal(err)
		}
	})
}

// A registry that refuses to begin in the middle is asked for the whole again.
func TestRefusedRangeIsReadAgain(t *testing.T) {
	server := &blobServer{content: randomBytes(1 << 20), limit: func(n int) int {
		if n == 0 {
			return 600_000
		}
		return 1 << 20
	}}
	server.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		refused := r.Header.Get("Range") != ""
		if refused {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}
		return refused
	}
	host := serve(t, server.ServeHTTP)
	got, err := readBlob(quickClient(Options{}), mustName(t, host+"/a"), server.descriptor())
	if err != nil || got != string(server.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}
