package operator

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/recordio"
)

// newServer returns a ready server of a host without containers.
func newServer(t *testing.T) *Server {
	t.Helper()
	s := New(Options{
		Version: &v1.VersionInfo{Version: proto.String("1.2.3")}, Flags: func() map[string]string { return map[string]string{"work_dir": "/w"} },
		Metrics: func() map[string]float64 { return map[string]float64{"a/b_ms": 1.5, "c": 2} },
		Level:   new(slog.LevelVar), Events: new(Events), Log: slog.New(slog.DiscardHandler),
	})
	s.Ready()
	return s
}

// ask sends a request by the agent's socket.
func ask(s *Server, method, path string, header map[string]string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, body)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	BySocket(s).ServeHTTP(w, r)
	return w
}

func TestWhatIsSpoken(t *testing.T) {
	const (
		health  = `{"type":"GET_HEALTH"}`
		records = "application/recordio"
		asJSON  = "application/json"
		asProto = "application/x-protobuf"
	)
	for _, c := range []struct {
		name, method string
		header       map[string]string
		body         string
		code         int
		words        string
	}{
		{"JSON both ways", "POST", map[string]string{"Content-Type": asJSON, "Accept": asJSON}, health, 200, `"healthy":true`},
		{"no Accept is JSON", "POST", map[string]string{"Content-Type": asJSON}, health, 200, `"healthy":true`},
		{"anything is JSON", "POST", map[string]string{"Content-Type": asJSON, "Accept": "*/*"}, health, 200, `"healthy":true`},
		{"a charset does not matter", "POST", map[string]string{"Content-Type": "application/json; charset=utf-8"}, health, 200, `"healthy":true`},
		{"the more specific range counts", "POST", map[string]string{"Content-Type": asJSON, "Accept": "application/json;q=0, application/*"}, health, 200, "\x08"},
		{"GET", "GET", map[string]string{"Content-Type": asJSON}, "", 405, "POST"},
		{"no Content-Type", "POST", nil, health, 400, "Expecting 'Content-Type' to be present"},
		{"another Content-Type", "POST", map[string]string{"Content-Type": "text/plain"}, health, 415, "'Content-Type'"},
		{"a Content-Type that is none", "POST", map[string]string{"Content-Type": ";;"}, health, 415, "'Content-Type'"},
		{"records of what", "POST", map[string]string{"Content-Type": records}, health, 400, "'Message-Content-Type' to be set"},
		{"records of records", "POST", map[string]string{"Content-Type": records, "Message-Content-Type": records}, health, 415, "'Message-Content-Type'"},
		{"no records, but of JSON", "POST", map[string]string{"Content-Type": asJSON, "Message-Content-Type": asJSON}, health, 415, "to be not set"},
		{"nothing that is acceptable", "POST", map[string]string{"Content-Type": asJSON, "Accept": "text/html"}, health, 406, "'Accept'"},
		{"everything is refused", "POST", map[string]string{"Content-Type": asJSON, "Accept": "*/*;q=0"}, health, 406, "'Accept'"},
		{"records that are not acceptable", "POST", map[string]string{"Content-Type": asJSON, "Accept": records, "Message-Accept": "text/html"}, health, 406, "'Message-Accept'"},
		{"Message-Accept without records", "POST", map[string]string{"Content-Type": asJSON, "Accept": asJSON, "Message-Accept": asJSON}, health, 406, "'Message-Accept'"},
		{"an answer that is no stream, as records", "POST", map[string]string{"Content-Type": asJSON, "Accept": records}, health, 406, "GET_HEALTH"},
		{"a request that is no stream, as records", "POST", map[string]string{"Content-Type": records, "Message-Content-Type": asJSON}, string(recordio.Append(nil, []byte(health))), 415, "GET_HEALTH"},
		{"a stream that is none", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{}}`, 415, records},
		{"an empty stream", "POST", map[string]string{"Content-Type": records, "Message-Content-Type": asJSON}, "", 400, "empty"},
		{"a stream that is cut", "POST", map[string]string{"Content-Type": records, "Message-Content-Type": asJSON}, "100\n{", 400, "ends within"},
		{"no JSON", "POST", map[string]string{"Content-Type": asJSON}, "{", 400, "Failed to parse body into Call"},
		{"nothing", "POST", map[string]string{"Content-Type": asJSON}, "", 400, "Failed to parse body into Call"},
		{"JSON of something else", "POST", map[string]string{"Content-Type": asJSON}, `{"type":{"a":1}}`, 400, "type: invalid"},
		{"no protobuf", "POST", map[string]string{"Content-Type": asProto}, "\xff\xff\xff", 400, "Failed to parse body into Call"},
		{"no type", "POST", map[string]string{"Content-Type": asJSON}, `{}`, 400, "Expecting 'type' to be present"},
		{"a type that is not known", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"DANCE"}`, 400, "Expecting 'type' to be present"},
		{"the type UNKNOWN", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"UNKNOWN"}`, 501, "UNKNOWN"},
		{"a number that is no type", "POST", map[string]string{"Content-Type": asProto}, "\x08\x63", 501, "99"},
		{"no message", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"LAUNCH_CONTAINER"}`, 400, "Expecting 'launch_container' to be present"},
		{"a required field that is missing", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"READ_FILE","read_file":{"path":"/x"}}`, 400, "read_file.offset"},
		{"more than one id", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"WAIT_CONTAINER","wait_container":{"container_id":{"value":"a/b"}}}`, 400, "'wait_container.container_id' is invalid"},
		{"an id with a dot", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"WAIT_CONTAINER","wait_container":{"container_id":{"value":"a.b"}}}`, 400, "a dot"},
		{"a nested call on a root container", "POST", map[string]string{"Content-Type": asJSON}, `{"type":"KILL_NESTED_CONTAINER","kill_nested_container":{"container_id":{"value":"a"}}}`, 400, "container_id.parent' to be present"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := ask(newServer(t), c.method, "/api/v1", c.header, strings.NewReader(c.body))
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.words) {
				t.Errorf("%d %q; want %d and %q", w.Code, w.Body, c.code, c.words)
			}
			if c.code == 405 && w.Header().Get("Allow") != "POST" {
				t.Errorf("Allow: %q", w.Header().Get("Allow"))
			}
		})
	}
}

func TestBothEncodingsSayTheSame(t *testing.T) {
	call := &v1.Call{Type: v1.Call_GET_FLAGS.Enum()}
	want := &v1.Response{Type: v1.Response_GET_FLAGS.Enum(), GetFlags: &v1.Response_GetFlags{Flags: []*v1.Flag{{Name: proto.String("work_dir"), Value: proto.String("/w")}}}}
	for _, content := range []media{jsonMedia, protobufMedia} {
		for _, accept := range []media{jsonMedia, protobufMedia} {
			body, err := encode(call, content)
			if err != nil {
				t.Fatal(err)
			}
			w := ask(newServer(t), "POST", "/slave(1)/api/v1", map[string]string{"Content-Type": string(content), "Accept": string(accept)}, bytes.NewReader(body))
			got := &v1.Response{}
			if accept == jsonMedia {
				err = v1.Unmarshal(w.Body.Bytes(), got)
			} else {
				err = proto.Unmarshal(w.Body.Bytes(), got)
			}
			if err != nil || !proto.Equal(got, want) || w.Header().Get("Content-Type") != string(accept) {
				t.Errorf("%s, %s: %v %v %q", content, accept, got, err, w.Header())
			}
		}
	}
}

// endless is a body without an end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestABodyWithoutAnEndIsNotRead(t *testing.T) {
	body := &endless{}
	w := ask(newServer(t), "POST", "/api/v1", map[string]string{"Content-Type": "application/json"}, body)
	if w.Code != http.StatusRequestEntityTooLarge || body.read > 2*maxMessage {
		t.Errorf("%d %q after %d bytes", w.Code, w.Body, body.read)
	}
	// A record says how long it is going to be.
	body = &endless{}
	w = ask(newServer(t), "POST", "/api/v1", map[string]string{"Content-Type": "application/recordio", "Message-Content-Type": "application/json"},
		io.MultiReader(strings.NewReader("1000000000\n"), body))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "at most") || body.read > maxMessage {
		t.Errorf("%d %q after %d bytes", w.Code, w.Body, body.read)
	}
}

// deep is an id of a container in n others, as protobuf.
func deep(n int) []byte {
	var id []byte
	for range n {
		id = append(append([]byte{0x0a, 1, 'a', 0x12}, varint(len(id))...), id...) // value, parent
	}
	wait := append(append([]byte{0x0a}, varint(len(id))...), id...)
	return append(append([]byte{0x08, 23, 0x72}, varint(len(wait))...), wait...) // type, wait_container
}

func varint(n int) (b []byte) {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func TestAProtobufBombIsRefused(t *testing.T) {
	w := ask(newServer(t), "POST", "/api/v1", map[string]string{"Content-Type": "application/x-protobuf"}, bytes.NewReader(deep(5000)))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "Failed to parse") {
		t.Errorf("%d %.200q", w.Code, w.Body)
	}
}

// What is small in a body and large in memory is refused before it is made.
func TestABodyOfNothingButEmptyMessagesIsRefused(t *testing.T) {
	const many = maxMessage/3 - 100
	pruned := bytes.Repeat([]byte{0x0a, 0}, many) // excluded_images
	for form, body := range map[media][]byte{
		jsonMedia:     []byte(`{"type":"LAUNCH_CONTAINER","launch_container":{"container":{"network_infos":[` + strings.Repeat(`{},`, many-100) + `{}]}}}`),
		protobufMedia: append(append([]byte{0x08, 30, 0xaa, 0x01}, varint(len(pruned))...), pruned...),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decode(body, form)
		runtime.ReadMemStats(&after)
		if code, _ := codeOf(err); code != http.StatusBadRequest || !strings.Contains(err.Error(), "messages in it") {
			t.Errorf("%s: %v", form, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: %d bytes of memory for it", form, used)
		}
	}
	// The bound itself: the call has one in it that has the others.
	for others, refused := range map[int]bool{maxParts - 1: false, maxParts: true} {
		pruned := bytes.Repeat([]byte{0x0a, 0}, others)
		_, err := decode(append(append([]byte{0x08, 30, 0xaa, 0x01}, varint(len(pruned))...), pruned...), protobufMedia)
		if got := err != nil && strings.Contains(err.Error(), "messages in it"); got != refused {
			t.Errorf("%d messages: %v", others+1, err)
		}
	}
	// Braces in a string are none.
	body, err := json.Marshal(map[string]any{"type": "LAUNCH_CONTAINER", "launch_container": map[string]any{
		"container_id": map[string]any{"value": "a"}, "command": map[string]any{"value": strings.Repeat(`{"\`, maxParts)}}})
	if err == nil {
		_, err = decode(body, jsonMedia)
	}
	if err != nil {
		t.Errorf("%.300v", err)
	}
}

func TestBeforeTheRecoveryHasEnded(t *testing.T) {
	s := New(Options{Level: new(slog.LevelVar), Events: new(Events), Log: slog.New(slog.DiscardHandler)})
	for _, path := range []string{"/api/v1", "/health", "/flags", "/metrics/snapshot"} {
		method := "GET"
		if path == "/api/v1" {
			method = "POST"
		}
		if w := ask(s, method, path, nil, nil); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "recovery") {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
}

func FuzzCall(f *testing.F) {
	f.Add([]byte(`{"type":"LAUNCH_CONTAINER","launch_container":{"container_id":{"value":"x"}}}`), true)
	f.Add(deep(3), false)
	f.Fuzz(func(t *testing.T, data []byte, asJSON bool) {
		form := protobufMedia
		if asJSON {
			form = jsonMedia
		}
		message, err := decode(data, form)
		if err != nil {
			if code, _ := codeOf(err); code != http.StatusBadRequest {
				t.Errorf("%v: %d", err, code)
			}
			return
		}
		if a, ok := answers[message.GetType()]; ok {
			c := &call{spoken: spoken{content: form}, Call: message}
			if a.check(c) == nil {
				containerOf(c, a.needs)
			}
		}
	})
}
