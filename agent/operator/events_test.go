package operator

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/recordio"
)

// Who does not read what they have asked for is cut off, and nobody waits for them.
func TestASubscriberThatDoesNotReadIsCutOff(t *testing.T) {
	s := newServer(t)
	server := httptest.NewServer(BySocket(s))
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := `{"type":"SUBSCRIBE_EVENTS"}`
	request, err := http.NewRequest("POST", server.URL+"/api/v1", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/recordio"}, "Message-Accept": {"application/x-protobuf"}}
	if err := request.Write(c); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), request)
	if err != nil {
		t.Fatal(err)
	}
	records := recordio.NewReader(answer.Body, maxMessage)
	if _, err := records.Next(); err != nil { // from now on it misses nothing
		t.Fatal(err)
	}
	subscribers := func() int {
		s.Events.mu.Lock()
		defer s.Events.mu.Unlock()
		return len(s.Events.subscribers)
	}
	published := 0
	for ; subscribers() > 0; published++ {
		if published == 1e6 {
			t.Fatal("it is still there after a million of events that it has not read")
		}
		s.Events.Publish(&v1.Event{Type: proto.String("container.launched"), Message: proto.String(strings.Repeat("x", 10000))})
	}
	read := 0
	for {
		_, err := records.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		read++
	}
	if read < backlog || read >= published {
		t.Errorf("of %d events it could read %d afterwards", published, read)
	}
}
