package operator

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// legacy serves the endpoints from before the calls: GET, and JSON.
func (s *Server) legacy() {
	s.mux.HandleFunc("GET /health", s.health)
	for path, e := range map[string]struct {
		action action
		answer func(*http.Request) (any, error)
	}{
		"/version":                 {viewHealth, s.legacyVersion},
		"/flags":                   {viewFlags, s.legacyFlags},
		"/containers":              {viewContainers, s.legacyContainers},
		"/monitor/statistics":      {viewContainers, s.legacyStatistics},
		"/monitor/statistics.json": {viewContainers, s.legacyStatistics},
		"/metrics/snapshot":        {viewMetrics, s.legacyMetrics},
		"/files/browse":            {accessSandboxes, s.legacyBrowse},
		"/files/browse.json":       {accessSandboxes, s.legacyBrowse},
		"/files/read":              {accessSandboxes, s.legacyRead},
		"/files/read.json":         {accessSandboxes, s.legacyRead},
	} {
		s.mux.HandleFunc("GET "+path, s.get(e.action, func(w http.ResponseWriter, r *http.Request) error {
			value, err := e.answer(r)
			if err != nil {
				return err
			}
			return writeJSON(w, value)
		}))
	}
	s.mux.HandleFunc("GET /metrics", s.get(viewMetrics, s.prometheus))
	s.mux.HandleFunc("GET /files/download", s.get(accessSandboxes, s.download))
}

// health tells whether the agent answers calls.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if !s.ready.Load() {
		http.Error(w, "Agent has not finished recovery", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// get answers who has the right to get_endpoints of the path, and to the action on the
// containers of every user: these answers are not filtered.
func (s *Server) get(a action, answer func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := s.mayGet(r, a)
		if err == nil {
			err = answer(w, r)
		}
		if err != nil {
			s.refuse(w, r, err)
		}
	}
}

func (s *Server) mayGet(r *http.Request, a action) error {
	if !s.ready.Load() {
		return failed(http.StatusServiceUnavailable, "Agent has not finished recovery")
	}
	subject := subjectOf(r.Context())
	if a == viewHealth {
		return nil
	}
	if err := subject.may("get_endpoints", false, r.URL.Path); err != nil {
		return err
	}
	if a == viewContainers || a == accessSandboxes {
		for _, id := range s.Containers.Containers() {
			_, nested := id.Parent()
			if err := subject.may(a, nested, s.userOf(r.Context(), id)); err != nil {
				return err
			}
		}
		return nil
	}
	return subject.may(a, false, "")
}

func writeJSON(w http.ResponseWriter, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", string(jsonMedia))
	_, _ = w.Write(append(text, '\n')) // a client that has gone needs no answer
	return nil
}

// message is one of the API in a legacy answer.
func message(m proto.Message) json.RawMessage {
	text, err := v1.Marshal(m)
	if err != nil {
		return json.RawMessage("null")
	}
	return text
}

func (s *Server) legacyVersion(*http.Request) (any, error) { return message(s.Version), nil }

func (s *Server) legacyFlags(*http.Request) (any, error) {
	return map[string]map[string]string{"flags": s.Flags()}, nil
}

func (s *Server) legacyMetrics(*http.Request) (any, error) { return s.Metrics(), nil }

// legacyContainer is how the older endpoints tell of a container. What is of frameworks is
// there, and empty.
type legacyContainer struct {
	ContainerID  string          `json:"container_id,omitempty"`
	ExecutorID   string          `json:"executor_id"`
	ExecutorName string          `json:"executor_name"`
	FrameworkID  string          `json:"framework_id"`
	Source       string          `json:"source"`
	Statistics   json.RawMessage `json:"statistics,omitempty"`
	Status       json.RawMessage `json:"status,omitempty"`
}

func (s *Server) legacyContainers(r *http.Request) (any, error) {
	query := r.URL.Query()
	wanted := query.Get("container_id")
	if wanted != "" && (query.Has("framework_id") || query.Has("executor_id")) {
		return nil, failed(http.StatusBadRequest, "Expecting 'container_id' or 'framework_id', and not both")
	}
	list := []legacyContainer{}
	if query.Has("framework_id") {
		return list, nil // there are none of frameworks
	}
	ids := slices.DeleteFunc(s.Containers.Containers(), func(id container.ID) bool { return wanted != "" && id.String() != wanted })
	for _, one := range s.describeAll(r.Context(), ids, notEnded) {
		id := legacyID(one)
		list = append(list, legacyContainer{ContainerID: id, Source: id, Statistics: statistics(one), Status: message(one.ContainerStatus)})
	}
	return list, nil
}

func (s *Server) legacyStatistics(r *http.Request) (any, error) {
	list := []legacyContainer{}
	for _, one := range s.describeAll(r.Context(), s.Containers.Containers(), notEnded) {
		if one.ResourceStatistics != nil {
			list = append(list, legacyContainer{Source: legacyID(one), Statistics: statistics(one)})
		}
	}
	return list, nil
}

func notEnded(one *v1.Response_GetContainers_Container) bool { return one.Ended == nil }

// legacyID is the id of a container with those of its parents before it.
func legacyID(one *v1.Response_GetContainers_Container) string {
	id, _ := idOf(one.ContainerId) // which was made of one
	return id.String()
}

func statistics(one *v1.Response_GetContainers_Container) json.RawMessage {
	if one.ResourceStatistics == nil {
		return nil
	}
	return message(one.ResourceStatistics)
}

// legacyFile is a FileInfo with its time in seconds and its mode in letters.
type legacyFile struct {
	Path  string  `json:"path"`
	Nlink int32   `json:"nlink"`
	Size  uint64  `json:"size"`
	Mtime float64 `json:"mtime"`
	Mode  string  `json:"mode"`
	UID   string  `json:"uid"`
	GID   string  `json:"gid"`
}

func (s *Server) legacyBrowse(r *http.Request) (any, error) {
	name, err := pathOf(r)
	if err != nil {
		return nil, err
	}
	infos, err := s.list(name)
	if err != nil {
		return nil, err
	}
	files := []legacyFile{}
	for _, i := range infos {
		files = append(files, legacyFile{i.GetPath(), i.GetNlink(), i.GetSize(), float64(i.GetMtime().GetNanoseconds()) / 1e9, letters(i.GetMode()), i.GetUid(), i.GetGid()})
	}
	return files, nil
}

// letters is a mode as ls(1) prints it.
func letters(mode uint32) string {
	kind := map[uint32]byte{0o04: 'd', 0o12: 'l', 0o02: 'c', 0o06: 'b', 0o01: 'p', 0o14: 's'}[mode>>12]
	text := []byte("-rwxrwxrwx")
	if kind != 0 {
		text[0] = kind
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			text[1+i] = '-'
		}
	}
	return string(text)
}

func pathOf(r *http.Request) (string, error) {
	name := r.URL.Query().Get("path")
	if name == "" {
		return "", failed(http.StatusBadRequest, "Expecting 'path=value' in query.")
	}
	return name, nil
}

func (s *Server) legacyRead(r *http.Request) (any, error) {
	name, err := pathOf(r)
	if err != nil {
		return nil, err
	}
	offset, err := number(r, "offset")
	if err != nil {
		return nil, err
	}
	length, err := number(r, "length")
	if err != nil {
		return nil, err
	}
	type part struct {
		Data   string `json:"data"`
		Offset uint64 `json:"offset"`
	}
	if offset == -1 { // where does it end?
		_, size, err := s.read(name, 0, 0)
		return part{"", size}, err
	}
	if length == -1 {
		length = maxRead
	}
	data, _, err := s.read(name, uint64(offset), uint64(min(length, maxRead)))
	return part{string(data), uint64(offset)}, err
}

// number reads a member of the query; -1 when it is not there.
func number(r *http.Request, name string) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < -1 {
		return 0, failed(http.StatusBadRequest, "%s=%q: %v: it is to be a number from 0 on", name, text, container.ErrInvalid)
	}
	return n, nil
}

// download sends a whole file.
func (s *Server) download(w http.ResponseWriter, r *http.Request) error {
	name, err := pathOf(r)
	if err != nil {
		return err
	}
	file, info, err := s.open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(name)}))
	// What a container has written is never taken for a page of the agent.
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", info.ModTime(), io.NewSectionReader(file, 0, info.Size()))
	return nil
}

// prometheus writes the metrics in the text format of Prometheus, version 0.0.4.
func (s *Server) prometheus(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	values := s.Metrics()
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		kind := "gauge"
		if s.Counts(name) {
			kind = "counter"
		}
		as := "berth_" + prometheusName(name)
		fmt.Fprintf(w, "# TYPE %s %s\n%s %s\n", as, kind, as, strconv.FormatFloat(values[name], 'g', -1, 64))
	}
	return nil
}

// prometheusName keeps what a name may have there, and puts _ for the rest.
func prometheusName(name string) string {
	text := []byte(name)
	for i, c := range text {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			text[i] = '_'
		}
	}
	return string(text)
}
