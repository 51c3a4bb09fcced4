package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"berth/container"
)

// everybody has a password.
type everybody struct{}

func (everybody) Resolve(context.Context, string, string) (Credentials, error) {
	return Credentials{Username: "bob", Password: "secret"}, nil
}

func TestDownload(t *testing.T) {
	mux := http.NewServeMux()
	var server *httptest.Server
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		if sent := r.Header.Get("Authorization"); sent != "" {
			t.Errorf("sent are the credentials %q", sent)
		}
		_, _ = io.WriteString(w, "content")
	})
	mux.HandleFunc("/wants-password", func(w http.ResponseWriter, r *http.Request) {
		if sent := r.Header.Get("Authorization"); sent != "" {
			t.Errorf("sent are the credentials %q", sent)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	mux.Handle("/moved", http.RedirectHandler("/file", http.StatusFound))
	mux.Handle("/circle", http.RedirectHandler("/circle", http.StatusFound))
	mux.Handle("/outside", http.RedirectHandler("http://images.example.com/file", http.StatusFound))
	mux.Handle("/local", http.RedirectHandler("file:///etc/passwd", http.StatusFound))
	mux.HandleFunc("/busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begin")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	server = httptest.NewServer(mux)
	defer server.Close()
	transport := NewTransport()
	transport.Proxy = nil
	c := NewClient(Options{Keychain: everybody{}, Transport: transport, StallTimeout: 200 * time.Millisecond})
	for _, path := range []string{"/file", "/moved"} {
		body, size, err := c.Download(t.Context(), server.URL+path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		content, err := io.ReadAll(body)
		if string(content) != "content" || size != 7 || err != nil {
			t.Errorf("%s: %q of %d bytes, %v", path, content, size, err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	for place, class := range map[string]error{
		server.URL + "/missing":        container.ErrNotFound,
		server.URL + "/wants-password": container.ErrDenied,
		server.URL + "/busy":           container.ErrUnavailable,
		server.URL + "/circle":         container.ErrInvalid,
		server.URL + "/outside":        container.ErrInvalid,
		server.URL + "/local":          container.ErrInvalid,
		"http://127.0.0.1:1/":          container.ErrUnavailable,
		"/etc/passwd":                  container.ErrInvalid,
		"file:///etc/passwd":           container.ErrInvalid,
		"http:///file":                 container.ErrInvalid,
		strings.Replace(server.URL, "http://", "http://bob:secret@", 1) + "/file": container.ErrInvalid,
	} {
		_, _, err := c.Download(t.Context(), place)
		if !errors.Is(err, class) {
			t.Errorf("%s: %v, want class %v", place, err, class)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error has the password: %v", place, err)
		}
	}
	body, _, err := c.Download(t.Context(), server.URL+"/endless")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if content, err := io.ReadAll(body); string(content) != "begin" || !errors.Is(err, container.ErrUnavailable) {
		t.Errorf("of a server that stalls: %q, %v", content, err)
	}
}
