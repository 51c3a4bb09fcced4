package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"berth/image"
)

// BenchmarkBlob is to be read beside BenchmarkSHA256: the reader is to add nothing else
// to the network.
func BenchmarkBlob(b *testing.B) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<20/16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }))
	defer server.Close()
	c := newTestClient(anonymous)
	name, err := image.ParseName(server.Listener.Addr().String() + "/a")
	if err != nil {
		b.Fatal(err)
	}
	d := image.Descriptor{Digest: image.DigestOf(content), Size: int64(len(content))}
	b.SetBytes(d.Size)
	b.ReportAllocs()
	for b.Loop() {
		read(b, c, name, d)
	}
}

// read reads a blob to its end.
func read(b *testing.B, c *Client, name image.Name, d image.Descriptor) {
	b.Helper()
	r, err := c.Blob(context.Background(), name, d)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		b.Fatal(err)
	}
	r.Close()
}

// BenchmarkLargeBlob shows what reading ahead brings where a server gives each connection 40
// MB/s, and that it takes nothing where a connection is fast.
func BenchmarkLargeBlob(b *testing.B) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 512<<20/16)
	d := image.Descriptor{Digest: image.DigestOf(content), Size: int64(len(content))}
	for name, perSecond := range map[string]int{"slow": 40e6, "fast": 1e12} {
		server := httptest.NewServer(&slowServer{content: content, perSecond: perSecond})
		defer server.Close()
		from, err := image.ParseName(server.Listener.Addr().String() + "/a")
		if err != nil {
			b.Fatal(err)
		}
		for how, limits := range map[string]aheadLimits{"one": {worth: d.Size + 1}, "ahead": defaultAhead} {
			b.Run(name+"/"+how, func(b *testing.B) {
				c := newTestClient(anonymous)
				c.ahead = limits
				b.SetBytes(d.Size)
				for b.Loop() {
					read(b, c, from, d)
				}
			})
		}
	}
}

func BenchmarkSHA256(b *testing.B) {
	content := make([]byte, 64<<20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		sha256.Sum256(content)
	}
}
