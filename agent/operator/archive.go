package operator

import (
	"context"
	"io"
	"net/http"

	"berth/container"
)

// Files are those of running containers, as their processes see them.
type Files interface {
	// Read writes a tar with a file, or a directory and all that is in it, under its name.
	Read(ctx context.Context, id container.ID, path string, w io.Writer) error
	// Write unpacks a tar: into the directory that is at path, else what is at its top takes
	// the name path.
	Write(ctx context.Context, id container.ID, path string, r io.Reader) error
}

const tarMedia = "application/x-tar"

// serveArchive copies files out of a container (GET) and into it (PUT), as a tar:
// /archive?container=ID&path=PATH. Whoever may execute commands there as root may.
func (s *Server) serveArchive(w http.ResponseWriter, r *http.Request) {
	out := &lateStatus{ResponseWriter: w}
	err := s.archive(out, r)
	switch {
	case err == nil:
	case out.begun: // the client sees an end that came too early
		panic(http.ErrAbortHandler)
	default:
		s.refuse(w, r, err)
	}
}

func (s *Server) archive(w http.ResponseWriter, r *http.Request) error {
	if !s.ready.Load() {
		return failed(http.StatusServiceUnavailable, "Agent has not finished recovery")
	}
	id, err := container.ParseID(r.URL.Query().Get("container"))
	if err != nil {
		return err
	}
	subject := subjectOf(r.Context())
	if err := subject.may(launchSessions.under(), true, s.userOf(r.Context(), id)); err != nil {
		return err
	}
	if err := subject.may(launchSessions, true, rootUser); err != nil {
		return err
	}
	name := r.URL.Query().Get("path")
	if name == "" {
		return failed(http.StatusBadRequest, "Expecting the parameter 'path'")
	}
	if r.Method == http.MethodPut {
		return s.Files.Write(r.Context(), id, name, r.Body)
	}
	w.Header().Set("Content-Type", tarMedia)
	return s.Files.Read(r.Context(), id, name, w)
}

// lateStatus knows whether an answer has begun.
type lateStatus struct {
	http.ResponseWriter
	begun bool
}

func (l *lateStatus) Write(p []byte) (int, error) {
	l.begun = true
	return l.ResponseWriter.Write(p)
}
