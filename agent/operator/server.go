package operator

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

// Options are what a Server answers from.
type Options struct {
	// Containers launches and looks after containers. Those that it is asked for by this
	// package have the keeper Agent.
	Containers Containers
	Images     Images
	Files      Files
	// Counted are the resources, of cpus and mem, of which every container with cgroups of its
	// own has to say how much it wants: those that an isolator counts.
	Counted []string
	// Sandbox is the directory of a container's own files.
	Sandbox func(container.ID) string

	// Flags returns those of the agent by their names, as they are in force. What is secret in
	// them is redacted already.
	Flags   func() map[string]string
	Version *v1.VersionInfo
	// Metrics returns the value of each metric, and Counts tells which ones only grow.
	Metrics func() map[string]float64
	Counts  func(metric string) bool
	// Abilities tells what this host can do.
	Abilities func(context.Context) (*v1.Response_GetAbilities, error)
	// Level is that of the log.
	Level *slog.LevelVar
	// Events has what happens.
	Events *Events
	// Heartbeat is how often a stream says that it is alive; 0: every 30 seconds, as Mesos.
	Heartbeat time.Duration
	Log       *slog.Logger
}

// Containers is what a Server can do with containers.
type Containers interface {
	containerizer.Containerizer
	containerizer.Streams
	containerizer.Inspector
}

// Images is what a Server can do with images.
type Images interface {
	// List tells of every image in the store.
	List(context.Context) (*v1.Response_GetImages, error)
	// Pull gets an image into the store.
	Pull(context.Context, *v1.Image) (*v1.Response_PullImage, error)
	// Prune removes images that no container uses, but for the excluded ones and those that
	// the agent never removes.
	Prune(ctx context.Context, excluded []*v1.Image) error
}

// Server answers calls. It is an http.Handler; the listener and who may connect to it are
// the agent's. Create it by New.
type Server struct {
	Options
	mux   *http.ServeMux
	ready atomic.Bool
	ends  atomic.Bool
	level levelReset

	usages *usages
}

// New returns a Server that says to all but who asks for its health that the agent has
// not finished its recovery, until Ready.
func New(o Options) *Server {
	if o.Heartbeat == 0 {
		o.Heartbeat = 30 * time.Second
	}
	s := &Server{Options: o, mux: http.NewServeMux(), usages: newUsages(o.Containers)}
	s.mux.HandleFunc("/api/v1", s.serveCall)
	s.mux.HandleFunc("/slave(1)/api/v1", s.serveCall)
	s.mux.HandleFunc("GET /archive", s.serveArchive)
	s.mux.HandleFunc("PUT /archive", s.serveArchive)
	s.legacy()
	return s
}

// Ready says that the recovery has ended: from now on calls are answered.
func (s *Server) Ready() { s.ready.Store(true) }

// Measure takes what containers use ahead of those who ask for it, until ctx ends: so an
// answer about many does not wait for the kernel.
func (s *Server) Measure(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { s.usages.takeAhead(ctx) })
	all.Go(func() { s.usages.surveyAll(ctx, s.Containers.Containers) })
	all.Wait()
}

// End says that the agent ends: what ends with its connection is from now on only left, for
// the agent after this one.
func (s *Server) End() { s.ends.Store(true) }

// Handle serves a further path, with the authentication of the others.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// serveCall answers a call.
func (s *Server) serveCall(w http.ResponseWriter, r *http.Request) {
	if err := s.answer(w, r); err != nil {
		s.refuse(w, r, err)
	}
}

// answer finds who answers a call, and lets it. An error is answered by the caller; there
// is none once a stream has begun.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) error {
	if !s.ready.Load() {
		return failed(http.StatusServiceUnavailable, "Agent has not finished recovery")
	}
	spoken, err := negotiate(r)
	if err != nil {
		return err
	}
	if spoken.records {
		// Or else a refusal would wait for the end of the request.
		w.Header().Set("Connection", "close")
	}
	c, err := readCall(w, r, spoken)
	if err != nil {
		return err
	}
	c.subject = subjectOf(r.Context())
	a, ok := answers[c.GetType()]
	if !ok {
		return failed(http.StatusNotImplemented, "the call %s is not known to this agent", c.GetType())
	}
	if err := a.check(c); err != nil {
		return err
	}
	if err := s.authorize(r.Context(), a, c); err != nil {
		return err
	}
	if a.stream != nil {
		return a.stream(s, newStream(w, c.accept, s.Heartbeat), r, c)
	}
	response, err := a.answer(s, r.Context(), c)
	if err != nil {
		return err
	}
	return respond(w, c, response)
}

// respond writes an answer that is not a stream.
func respond(w http.ResponseWriter, c *call, response *answered) error {
	if response.Response == nil {
		w.WriteHeader(response.status())
		return nil
	}
	body, err := encode(response.Response, c.accept)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", string(c.accept))
	w.WriteHeader(response.status())
	_, _ = w.Write(body) // a client that has gone needs no answer
	return nil
}

// answered is a success.
type answered struct {
	*v1.Response     // nil: the status says all
	code         int // 0: 200
}

func (a *answered) status() int {
	if a.code == 0 {
		return http.StatusOK
	}
	return a.code
}

// exitHeader has the exit code for a command that was not executed: 126 or 127, as
// command-line tools tell apart what is not executable and what is not found.
const exitHeader = "Berth-Exit-Code"

// classHeader has the class of the error that a call was refused for, such as "already exists",
// where there is one: the status, which is as Mesos has it, says less.
const classHeader = "Berth-Error"

// refuse answers a call that has failed, with one sentence.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody is there to be told
	}
	code, meant := codeOf(err)
	var f *failure
	if errors.As(err, &f) && f.exit != 0 {
		w.Header().Set(exitHeader, strconv.Itoa(f.exit))
	}
	if class := container.ClassOf(err); class != nil {
		w.Header().Set(classHeader, class.Error())
	}
	if code == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	if !meant {
		s.Log.Error("answer a call", slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	http.Error(w, err.Error(), code)
}

// codeOf is the status for an error: its own, or that of its class. Where Mesos has
// another one for a call, who answers the call says so. An error of no class is the
// agent's or its host's: nobody meant it.
func codeOf(err error) (code int, meant bool) {
	var f *failure
	if errors.As(err, &f) {
		return f.code, true
	}
	for _, c := range []struct {
		class error
		code  int
	}{
		{container.ErrInvalid, http.StatusBadRequest},
		{container.ErrNotSupported, http.StatusBadRequest},
		{container.ErrNotFound, http.StatusNotFound},
		{container.ErrExists, http.StatusConflict},
		{container.ErrFailedPrecondition, http.StatusConflict},
		{container.ErrDenied, http.StatusForbidden},
		{container.ErrUnavailable, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, c.class) {
			return c.code, true
		}
	}
	return http.StatusInternalServerError, false
}
