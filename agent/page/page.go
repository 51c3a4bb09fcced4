// Package page serves the page of an agent: its containers, their use of the host, their
// files and outputs, the images, what the host can do, and what happens. It is plain HTML
// and a little JavaScript, without a build step and without anything from elsewhere. All that it
// shows it asks of the operator API, with the rights of whoever looks at it.
package page

import (
	"embed"
	"net/http"
)

//go:embed index.html page.js page.css
var files embed.FS

// policy lets the page load nothing but itself, and nobody frame it: what a container writes is
// shown as text, and could not do anything if it were not.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Patterns are what Handler serves: the page and its two parts.
var Patterns = []string{"GET /{$}", "GET /page.js", "GET /page.css"}

// Handler serves the page.
func Handler() http.Handler {
	serve := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-cache")
		serve.ServeHTTP(w, r)
	})
}
