package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/container"
	"berth/image"
)

// slowServer serves a blob with ranges, and gives each connection little.
type slowServer struct {
	content   []byte
	perSecond int
	// before may answer the n-th request for a piece itself, from 0 on, or change what the
	// answer will be by the writer that it returns.
	before func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter

	// piece is closed when one was answered, nil where none will be. Until then the first connection
	// brings only enough to be found slow: so it does not depend on the load of the machine
	// what happens.
	piece chan struct{}

	mu         sync.Mutex
	requests   []string // values of Range
	sent       int
	open, most int // answers under way
	clients    map[string]bool
}

func (s *slowServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := s.enter(r)
	defer s.leave()
	if s.isPiece(r) {
		defer s.answered()
	}
	if s.before != nil && s.isPiece(r) {
		if w = s.before(n, w, r); w == nil {
			return
		}
	}
	out := &slowWriter{ResponseWriter: w, server: s, begin: time.Now(), piece: s.isPiece(r), gone: r.Context().Done()}
	http.ServeContent(out, r, "", time.Time{}, bytes.NewReader(s.content))
}

func (s *slowServer) isPiece(r *http.Request) bool {
	var from, last int
	n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &last)
	return n == 2 && last-from < testPiece
}

func (s *slowServer) enter(r *http.Request) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, asked := range s.requests {
		if asked != "" {
			n++
		}
	}
	s.requests = append(s.requests, r.Header.Get("Range"))
	if s.clients == nil {
		s.clients = make(map[string]bool)
	}
	s.clients[r.RemoteAddr] = true
	s.open++
	s.most = max(s.most, s.open)
	return n
}

func (s *slowServer) answered() {
	if s.piece == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.piece:
	default:
		close(s.piece)
	}
}

func (s *slowServer) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

func (s *slowServer) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *slowServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.requests...)
}

// slowWriter also hides what could send a file without it.
type slowWriter struct {
	http.ResponseWriter
	server *slowServer
	begin  time.Time
	sent   int
	piece  bool
	gone   <-chan struct{} // closed when the client is
}

func (w *slowWriter) Write(p []byte) (written int, err error) {
	for len(p) > 0 && err == nil {
		var n int
		n, err = w.ResponseWriter.Write(p[:min(len(p), 16<<10)])
		w.ResponseWriter.(http.Flusher).Flush()
		p, written, w.sent = p[n:], written+n, w.sent+n
		w.server.mu.Lock()
		w.server.sent += n
		w.server.mu.Unlock()
		w.hold()
		time.Sleep(time.Until(w.begin.Add(time.Duration(w.sent) * time.Second / time.Duration(w.server.perSecond))))
	}
	return written, err
}

// hold waits for pieces, see slowServer.piece, and so that the client knows of them.
func (w *slowWriter) hold() {
	began := time.Now()
	defer func() { w.begin = w.begin.Add(time.Since(began)) }() // it does not catch up
	switch {
	case w.piece:
		w.server.answered()
	case w.server.piece != nil && w.sent == testWindow/2:
		time.Sleep(100 * time.Millisecond)
	case w.server.piece != nil && w.sent == testWindow+testPiece:
		select {
		case <-w.server.piece:
		case <-w.gone:
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Unwrap is for http.ResponseController.
func (w *slowWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// cutWriter breaks the connection off after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(len(p), w.left)])
	if w.left -= n; w.left == 0 {
		w.Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (w *cutWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

// otherWriter sends a header of its own instead of the one that it is given.
type otherWriter struct {
	http.ResponseWriter
	contentRange string
}

func (w otherWriter) WriteHeader(code int) {
	w.Header().Set("Content-Range", w.contentRange)
	w.ResponseWriter.WriteHeader(code)
}

func (w otherWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

const (
	slowSize  = 3<<20 + 12345
	testPiece = 96 << 10
	// testWindow is that of aheadLimits.
	testWindow = 256 << 10
)

// newHastyServer does not wait for pieces.
func newHastyServer() *slowServer {
	s := newSlowServer()
	s.piece = nil
	return s
}

func newSlowServer() *slowServer {
	return &slowServer{content: randomBytes(slowSize), perSecond: 8 << 20, piece: make(chan struct{})}
}

func (s *slowServer) descriptor() image.Descriptor { return descriptorOf(string(s.content)) }

// aheadClient reads ahead what is small enough for a test.
func aheadClient(o Options) *Client {
	c := quickClient(o)
	c.ahead = aheadLimits{window: testWindow, fast: 100e6, worth: 1 << 20, lead: time.Millisecond, piece: testPiece, connections: 3}
	return c
}

func (s *slowServer) check(t *testing.T, got string, err error) {
	t.Helper()
	if err != nil || got != string(s.content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// What is sent again is what the first connection had on its way, a few pieces at most.
	if s.sent > slowSize*5/4 {
		t.Errorf("%d bytes were sent, of a blob of %d", s.sent, slowSize)
	}
}

func TestASlowConnectionIsHelped(t *testing.T) {
	server := newSlowServer()
	host := serve(t, server.ServeHTTP)
	c := aheadClient(Options{})
	got, err := readBlob(c, mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if server.most < 3 || len(server.asked()) < 20 {
		t.Errorf("%d requests at a time, asked for %q", server.most, server.asked())
	}
	if len(server.clients) > 4 { // the first, and three
		t.Errorf("%d connections", len(server.clients))
	}
	if c.readsAhead.Load() {
		t.Error("nobody else may read ahead")
	}
}

// What an earlier process has kept is not fetched again here either.
func TestASlowConnectionIsHelpedInTheMiddle(t *testing.T) {
	server := newSlowServer()
	host := serve(t, server.ServeHTTP)
	const kept = 1 << 20
	b, err := aheadClient(Options{}).BlobFrom(t.Context(), mustName(t, host+"/a"), server.descriptor(), bytes.NewReader(server.content[:kept]), kept)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	server.check(t, string(got), err)
	if server.most < 3 || server.sent > slowSize-kept/2 {
		t.Errorf("%d requests at a time, %d bytes", server.most, server.sent)
	}
}

// Where it is the reader that is slow, or the blob is none of the large ones, nothing changes.
func TestAFastConnectionIsNotHelped(t *testing.T) {
	t.Run("slow reader", func(t *testing.T) {
		server := newHastyServer()
		server.perSecond = 1 << 32
		host := serve(t, server.ServeHTTP)
		b, err := aheadClient(Options{}).Blob(t.Context(), mustName(t, host+"/a"), server.descriptor())
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var got strings.Builder
		for err == nil {
			_, err = io.CopyN(&got, b, 64<<10)
			time.Sleep(20 * time.Millisecond)
		}
		if err == io.EOF {
			err = nil
		}
		server.check(t, got.String(), err)
		if len(server.asked()) != 1 {
			t.Errorf("asked for %q", server.asked())
		}
	})
	t.Run("fast connection", func(t *testing.T) {
		server := newHastyServer()
		server.perSecond = 1 << 40
		host := serve(t, server.ServeHTTP)
		c := aheadClient(Options{})
		c.ahead.fast = 1 // whatever machine this is
		got, err := readBlob(c, mustName(t, host+"/a"), server.descriptor())
		server.check(t, got, err)
		if len(server.asked()) != 1 {
			t.Errorf("asked for %q", server.asked())
		}
	})
	t.Run("small blob", func(t *testing.T) {
		server := newHastyServer()
		server.content = server.content[:1<<20-1]
		host := serve(t, server.ServeHTTP)
		got, err := readBlob(aheadClient(Options{}), mustName(t, host+"/a"), server.descriptor())
		if err != nil || got != string(server.content) || len(server.asked()) != 1 {
			t.Errorf("%d bytes, %v, asked for %q", len(got), err, server.asked())
		}
	})
}

// Two blobs have two connections already.
func TestOneBlobIsReadAhead(t *testing.T) {
	server := newHastyServer()
	host := serve(t, server.ServeHTTP)
	c := aheadClient(Options{})
	c.readsAhead.Store(true)
	got, err := readBlob(c, mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if len(server.asked()) != 1 {
		t.Errorf("asked for %q", server.asked())
	}
}

// With less memory the pieces are smaller, also of a blob that is being read ahead.
func TestPiecesFitIntoTheMemory(t *testing.T) {
	const small = 64 << 10
	server := newSlowServer()
	host := serve(t, server.ServeHTTP)
	o := Options{ReadAheadMemory: func() int64 {
		if len(server.asked()) < 8 {
			return 1 << 30
		}
		return 4 * small
	}}
	got, err := readBlob(aheadClient(o), mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	sizes := make(map[int]int)
	for _, asked := range server.asked() {
		var from, last int
		if n, _ := fmt.Sscanf(asked, "bytes=%d-%d", &from, &last); n == 2 {
			sizes[last-from+1]++
		}
	}
	if sizes[testPiece] < 2 || sizes[small] < 10 || len(sizes) > 3 { // the last one is shorter
		t.Errorf("pieces of these sizes: %v", sizes)
	}
}

// Whatever is wrong with further connections is no error of the blob.
func TestReadingAheadIsGivenUp(t *testing.T) {
	answers := map[string]func(w http.ResponseWriter, r *http.Request) http.ResponseWriter{
		"ranges are ignored": func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			r.Header.Del("Range")
			return w
		},
		"closed": func(http.ResponseWriter, *http.Request) http.ResponseWriter { panic(http.ErrAbortHandler) },
	}
	for name, code := range map[string]int{"404": 404, "416": 416, "429": 429, "503": 503} {
		answers[name] = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			status(code, "text/plain", "", "Retry-After", "3600")(w, r)
			return nil
		}
	}
	for name, field := range map[string]string{
		"another range":           fmt.Sprintf("bytes 0-%d/%d", testPiece-1, slowSize),
		"a range of another blob": "bytes 5-9/100",
		"a size that changed":     "",
		"no range":                "none",
	} {
		answers[name] = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			stated := field
			if stated == "" {
				stated = "bytes " + strings.TrimPrefix(r.Header.Get("Range"), "bytes=") + "/" + fmt.Sprint(slowSize+1)
			}
			return otherWriter{w, stated}
		}
	}
	for name, other := range answers {
		for _, from := range []int{0, 7} {
			t.Run(fmt.Sprintf("%s, from piece %d on", name, from), func(t *testing.T) {
				t.Parallel()
				server := newSlowServer()
				server.before = func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
					if n >= from {
						return other(w, r)
					}
					return w
				}
				host := serve(t, server.ServeHTTP)
				got, err := readBlob(aheadClient(Options{}), mustName(t, host+"/a"), server.descriptor())
				server.check(t, got, err)
				// The transport repeats some of them by itself.
				if asked := server.asked(); len(asked) < from+1 || len(asked) > from+8 {
					t.Errorf("asked for %q", asked)
				}
			})
		}
	}
}

// An answer that does not come in time is not waited for.
func TestReadingAheadDoesNotHoldUp(t *testing.T) {
	server := newHastyServer()
	server.before = func(_ int, _ http.ResponseWriter, r *http.Request) http.ResponseWriter {
		<-r.Context().Done()
		return nil
	}
	host := serve(t, server.ServeHTTP)
	got, err := readBlob(aheadClient(Options{}), mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if len(server.asked()) != 2 {
		t.Errorf("asked for %q", server.asked())
	}
}

// Of a piece that breaks off only the rest is fetched.
func TestAPieceBreaksOff(t *testing.T) {
	server := newSlowServer()
	server.before = func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if n%2 == 0 {
			return &cutWriter{w, 40_000}
		}
		return w
	}
	host := serve(t, server.ServeHTTP)
	got, err := readBlob(aheadClient(Options{}), mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	for _, asked := range server.asked()[1:] {
		var from, last int
		if fmt.Sscanf(asked, "bytes=%d-%d", &from, &last); last-from >= testPiece {
			t.Errorf("asked for %q", asked)
		}
	}
}

// The first connection breaks while the further ones have begun.
func TestTheFirstConnectionBreaksOff(t *testing.T) {
	server := newSlowServer()
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			w = &cutWriter{w, 350_000}
		}
		server.ServeHTTP(w, r)
	})
	got, err := readBlob(aheadClient(Options{}), mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if server.most < 3 {
		t.Errorf("%d requests at a time", server.most)
	}
}

// Another content under the same name is found out, as ever.
func TestPiecesOfAnotherBlob(t *testing.T) {
	server, other := newSlowServer(), newSlowServer()
	other.content, other.piece = bytes.Clone(server.content), server.piece
	other.content[slowSize-1]++
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			server.ServeHTTP(w, r)
		} else {
			other.ServeHTTP(w, r)
		}
	})
	_, err := readBlob(aheadClient(Options{}), mustName(t, host+"/a"), server.descriptor())
	check(t, err, container.ErrInvalid, "expected bytes with the digest")
}

// A token is good for three requests.
func TestTokensThatExpireWhileReadingAhead(t *testing.T) {
	server := newSlowServer()
	var mu sync.Mutex
	issued, left := 0, 0
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.URL.Path == "/token" {
			issued, left = issued+1, 3
			fmt.Fprintf(w, `{"token":"token-%d"}`, issued)
			mu.Unlock()
			return
		}
		good := left > 0 && r.Header.Get("Authorization") == fmt.Sprintf("Bearer token-%d", issued)
		if good {
			left--
		}
		mu.Unlock()
		if good {
			server.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, r.Host))
		w.WriteHeader(401)
	})
	got, err := readBlob(aheadClient(Options{Keychain: bob(host)}), mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if issued < 3 {
		t.Errorf("%d tokens", issued)
	}
}

// A registry leads to a storage host by addresses that are good for eight requests. It is
// asked when one is not any more, and the storage host gets no password.
func TestReadingAheadFromStorage(t *testing.T) {
	server := newSlowServer()
	var mu sync.Mutex
	signed, left := 0, 0
	storage := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a password reached the storage host")
		}
		mu.Lock()
		good := left > 0 && r.URL.RawQuery == fmt.Sprintf("signature=%d", signed)
		if good {
			left--
		}
		mu.Unlock()
		if !good {
			w.WriteHeader(403)
			return
		}
		server.ServeHTTP(w, r)
	})
	host := serve(t, askFirst(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if left == 0 {
			signed, left = signed+1, 8
		}
		redirect(307, fmt.Sprintf("http://%s/blob?signature=%d", storage, signed))(w, r)
		mu.Unlock()
	}))
	got, err := readBlob(aheadClient(Options{Keychain: bob(host)}), mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if server.most < 3 || signed < 3 {
		t.Errorf("%d requests at a time, %d addresses", server.most, signed)
	}
}

// mirrored makes a client that asks a mirror of host first.
func mirrored(t *testing.T, host, mirror string) *Client {
	dirs := t.TempDir()
	dir := filepath.Join(dirs, strings.ReplaceAll(host, ":", "_")+"_")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", host, mirror)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return aheadClient(Options{HostsDir: dirs})
}

// A mirror that fails is left for the registry.
func TestReadingAheadFromAMirrorThatFails(t *testing.T) {
	server, mirror := newHastyServer(), newSlowServer()
	host := serve(t, server.ServeHTTP)
	c := mirrored(t, host, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if len(mirror.asked()) > 7 {
			w.WriteHeader(500)
			return
		}
		mirror.ServeHTTP(w, r)
	}))
	got, err := readBlob(c, mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if len(mirror.asked()) != 8 || len(server.asked()) != 1 || server.sent+mirror.sent > slowSize*5/4 {
		t.Errorf("the mirror was asked for %q, the registry for %q", mirror.asked(), server.asked())
	}
}

// A mirror that has pieces wrong is not asked for the blob again.
func TestReadingAheadFromAMirrorThatIsWrong(t *testing.T) {
	server, mirror := newSlowServer(), newSlowServer()
	mirror.content = bytes.Clone(server.content)
	mirror.content[slowSize-1]++
	host := serve(t, server.ServeHTTP)
	c := mirrored(t, host, serve(t, mirror.ServeHTTP))
	b, err := c.Blob(t.Context(), mustName(t, host+"/a"), server.descriptor())
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, b)
	check(t, err, container.ErrInvalid, "expected bytes with the digest")
	b.Close()
	if !b.Distrust() {
		t.Fatal("the mirror is trusted")
	}
	asked := len(mirror.asked())
	got, err := readBlob(c, mustName(t, host+"/a"), server.descriptor())
	server.check(t, got, err)
	if len(mirror.asked()) != asked || server.most < 3 {
		t.Errorf("the mirror was asked %d times more, the registry at most %d times at a time", len(mirror.asked())-asked, server.most)
	}
}

func TestReadingAheadEndsWithItsReader(t *testing.T) {
	for name, end := range map[string]func(cancel func(), b *Blob){
		"cancelled": func(cancel func(), b *Blob) {
			cancel()
			if _, err := io.Copy(io.Discard, b); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			b.Close()
		},
		"closed": func(_ func(), b *Blob) { b.Close() },
	} {
		for _, after := range []int64{300 << 10, 1 << 20} { // before and after the switch
			t.Run(fmt.Sprintf("%s after %d bytes", name, after), func(t *testing.T) {
				server := newSlowServer()
				began := make(chan struct{}, 100)
				server.before = func(_ int, w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
					began <- struct{}{}
					return w
				}
				transport := newTestTransport()
				host := serve(t, server.ServeHTTP)
				c := aheadClient(Options{Transport: transport})
				before := runtime.NumGoroutine()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				b, err := c.Blob(ctx, mustName(t, host+"/a"), server.descriptor())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, b, after); err != nil {
					t.Fatal(err)
				}
				<-began
				end(cancel, b)
				if c.readsAhead.Load() {
					t.Error("nobody else may read ahead")
				}
				transport.CloseIdleConnections()
				for server.inFlight() > 0 || runtime.NumGoroutine() > before {
					time.Sleep(10 * time.Millisecond) // or the test runs into its end
				}
			})
		}
	}
}

// Streams of HTTP/2 would share a connection.
func TestReadingAheadLeavesHTTP2(t *testing.T) {
	for name, insecure := range map[string]bool{"trusted": false, "insecure": true} {
		t.Run(name, func(t *testing.T) {
			server := newSlowServer()
			h2 := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if server.isPiece(r) != (r.ProtoMajor == 1) {
					t.Errorf("HTTP/%d for the range %q", r.ProtoMajor, r.Header.Get("Range"))
				}
				server.ServeHTTP(w, r)
			}))
			h2.EnableHTTP2 = true
			h2.StartTLS()
			t.Cleanup(h2.Close)
			host := h2.Listener.Addr().String()
			c := aheadClient(Options{Insecure: []string{host}})
			name := mustName(t, host+"/a")
			if !insecure {
				i := newInternet(t)
				i.transport.TLSClientConfig = h2.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
				i.addresses["example.com:443"] = host
				c, name = aheadClient(Options{Transport: i.transport}), mustName(t, "example.com/a")
			}
			got, err := readBlob(c, name, server.descriptor())
			server.check(t, got, err)
			if server.most < 3 {
				t.Errorf("%d requests at a time, asked for %q", server.most, server.asked())
			}
		})
	}
}
