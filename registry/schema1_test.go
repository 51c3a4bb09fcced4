package registry

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"testing"

	"berth/container"
	"berth/image"
)

// signed is a document of schema 1 with a signature, and what that is of.
func signed(members string) (body, payload string) {
	payload = "{" + members + "}"
	header := fmt.Sprintf(`{"formatLength":%d,"formatTail":"fQ"}`, len(members)+1)
	return fmt.Sprintf(`{%s,"signatures":[{"protected":%q}]}`, members, base64.RawURLEncoding.EncodeToString([]byte(header))), payload
}

// The digest of a signed manifest is that of what was signed, by which it can be asked for.
func TestSignedManifest(t *testing.T) {
	body, payload := signed(`"schemaVersion":1,"name":"a"`)
	digest := image.DigestOf([]byte(payload))
	for _, contentType := range []string{image.MediaTypeSchema1Signed, "application/json; charset=utf-8"} {
		stated := digest.String()
		host := serve(t, func(w http.ResponseWriter, r *http.Request) {
			status(200, contentType, body, "Docker-Content-Digest", stated)(w, r)
		})
		name := mustName(t, host+"/a:b")
		raw, err := newTestClient(anonymous).Manifest(t.Context(), name)
		if err != nil || string(raw.Body) != payload || raw.Digest != digest || raw.MediaType != image.MediaTypeSchema1 {
			t.Errorf("%s: %s, %v", contentType, raw, err)
		}
		name.Digest = digest
		if _, err := newTestClient(anonymous).Manifest(t.Context(), name); err != nil {
			t.Error(err)
		}
		name.Digest = image.DigestOf([]byte(body))
		_, err = newTestClient(anonymous).Manifest(t.Context(), name)
		check(t, err, container.ErrInvalid, name.Digest.String(), digest.String())
		stated = name.Digest.String()
		name.Digest = ""
		_, err = newTestClient(anonymous).Manifest(t.Context(), name)
		check(t, err, container.ErrInvalid, "states the digest "+stated)
	}
}

func TestBlobSize(t *testing.T) {
	blob := descriptorOf("content")
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		class   error
		says    string
	}{
		"stated":  {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "7") }, nil, ""},
		"missing": {status(404, "text/plain", ""), container.ErrNotFound, "push it again"},
		"denied":  {status(403, "text/plain", ""), container.ErrDenied, "403"},
		"not stated": {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() },
			container.ErrNotSupported, "how long"},
		"a petabyte": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1000000000000000") },
			container.ErrInvalid, "1000000000000000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked string
			host := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked = r.Method + " " + r.URL.Path
				c.handler(w, r)
			})
			size, err := newTestClient(anonymous).BlobSize(t.Context(), mustName(t, host+"/a:b"), blob.Digest)
			if c.class != nil {
				check(t, err, c.class, c.says, "size of the blob "+blob.Digest.String())
			} else if err != nil || size != blob.Size {
				t.Errorf("%d, %v", size, err)
			}
			if want := "HEAD /v2/a/blobs/" + blob.Digest.String(); asked != want {
				t.Errorf("asked for %s", asked)
			}
		})
	}
}

// A registry that wants credentials gets them, and a blob host is asked in its place.
func TestBlobSizeWithCredentialsElsewhere(t *testing.T) {
	blob := descriptorOf("content")
	elsewhere := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials went to another host")
		}
		w.Header().Set("Content-Length", "7")
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, "content")
		}
	})
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "secret" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, "http://"+elsewhere+"/x", http.StatusTemporaryRedirect)
	})
	size, err := newTestClient(user{host, Credentials{Username: "bob", Password: "secret"}}).BlobSize(t.Context(), mustName(t, host+"/a:b"), blob.Digest)
	if err != nil || size != blob.Size {
		t.Errorf("%d, %v", size, err)
	}
}
