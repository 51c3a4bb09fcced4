//go:build linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/recordio"
	"berth/internal/testrig"
)

// connect opens a connection and writes what a client of another kind would not.
func connect(t *testing.T, b *testrig.Command, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(b.RuntimeDir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// answerOn reads the answer on a connection.
func answerOn(t *testing.T, c net.Conn) (code int, body string) {
	t.Helper()
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

const (
	jsonCall   = "POST /api/v1 HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\n"
	streamCall = "POST /api/v1 HTTP/1.1\r\nHost: agent\r\nContent-Type: application/recordio\r\nMessage-Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

func TestClientsThatSendTooMuchOrTooLittle(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	agent := startAgent(t, b)
	o := newOperator(t, b, true)

	t.Run("a body of a gigabyte", func(t *testing.T) {
		c := connect(t, b, jsonCall+"Content-Length: 1073741824\r\n\r\n")
		defer c.Close()
		if code, body := answerOn(t, c); code != 413 || !strings.Contains(body, "larger than the 8388608 bytes") {
			t.Errorf("%d %q", code, body)
		}
	})

	cat := launchOf(rootID("cat"), image, script("cat; echo end"))
	cat.LaunchContainer.Interactive = proto.Bool(true)
	o.expect(cat, 200, "")
	record := func(text string) string { return string(recordio.Append(nil, []byte(text))) }
	first := record(`{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"CONTAINER_ID","container_id":{"value":"cat"}}}`)
	data := record(`{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"PROCESS_IO","process_io":{"type":"DATA","data":{"type":"STDIN","data":"b25lCg=="}}}}`)
	said := func(text string) {
		t.Helper()
		read := &v1.Call{Type: v1.Call_READ_FILE.Enum(), ReadFile: &v1.Call_ReadFile{Path: proto.String(filepath.Join(b.WorkDir, "containers", "cat", "stdout")), Offset: proto.Uint64(0)}}
		await(t, func() bool { return string(o.answer(read).GetReadFile().GetData()) == text })
	}
	t.Run("a stream that is cut within a record", func(t *testing.T) {
		c := connect(t, b, streamCall+chunk(first+data+data[:40])+"0\r\n\r\n")
		defer c.Close()
		if code, body := answerOn(t, c); code != 400 || !strings.Contains(body, "ends within it") {
			t.Errorf("%d %q", code, body)
		}
		said("one\n")
	})
	t.Run("a record that is another call", func(t *testing.T) {
		c := connect(t, b, streamCall+chunk(first+record(`{"type":"GET_HEALTH"}`))+"0\r\n\r\n")
		defer c.Close()
		if code, body := answerOn(t, c); code != 400 || !strings.Contains(body, "PROCESS_IO after the first one") {
			t.Errorf("%d %q", code, body)
		}
	})
	t.Run("a stream that stops within a record and stays open", func(t *testing.T) {
		c := connect(t, b, streamCall+chunk(first+data+data[:40]))
		said("one\none\n")
		if code, body := o.input(rootID("cat"), typed("no\n")); code != 409 {
			t.Errorf("a second one meanwhile: %d %q", code, body)
		}
		c.Close() // and the input is for others
		await(t, func() bool { code, _ := o.input(rootID("cat"), typed("two\n")); return code == 200 })
		said("one\none\ntwo\n")
	})
	if code, body := o.input(rootID("cat"), typed("")); code != 200 {
		t.Errorf("%d %q", code, body)
	}
	o.answer(waitOf(rootID("cat")))
	o.expect(removeOf(rootID("cat")), 200, "")

	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}

// A thousand clients that say half of what they have to say keep nobody else from an answer,
// and nothing of them stays.
func TestHalfOpenClientsCostNothing(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	agent := startAgent(t, b)
	o := newOperator(t, b, false)
	health := &v1.Call{Type: v1.Call_GET_HEALTH.Enum()}
	o.expect(health, 200, "")
	descriptors := func() int { return usageOf(t, agent.Pid).descriptors }
	before, routines := descriptors(), metricsOf(t, b)["agent/goroutines"]
	events, records := o.stream(&v1.Call{Type: v1.Call_SUBSCRIBE_EVENTS.Enum()})
	if _, err := records.Next(); err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	for i := range 1000 {
		held = append(held, connect(t, b, []string{
			"", "POST /api/v1 HT", jsonCall + "Content-Length: 100\r\n\r\n{", jsonCall + "X-Slow: ", streamCall, streamCall + chunk("10"),
			jsonCall + "Accept: application/recordio\r\nContent-Length: 27\r\n\r\n" + `{"type":"SUBSCRIBE_EVENTS"}`, // and reads nothing
		}[i%7]))
	}
	await(t, func() bool { return descriptors() > before+900 })
	began := time.Now()
	o.expect(health, 200, "")
	t.Logf("with %d clients that are half open an answer takes %v, and the agent has %v", len(held), time.Since(began), usageOf(t, agent.Pid))
	for _, c := range held {
		c.Close()
	}
	events.Close()
	await(t, func() bool { return descriptors() <= before+1 && metricsOf(t, b)["agent/goroutines"] <= routines+2 })
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
}
