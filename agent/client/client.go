// Package client asks an agent, by its socket: the other end of package operator.
package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/recordio"
)

const (
	protobufMedia = "application/x-protobuf"
	recordMedia   = "application/recordio"
)

// maxRecord bounds a record of an answer.
const maxRecord = 8 << 20

// Client asks one agent. Its methods may be called concurrently.
type Client struct {
	http   *http.Client
	socket string
}

// New returns a client of the agent with the socket. Whether one answers there is found
// out by the first call.
func New(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is an answer that is not a success.
type Error struct {
	Code int // of HTTP
	Text string
	// Exit is the exit code for a command that was not executed: 126 or 127; else 0.
	Exit int
	// Class is that of the error as the agent has named it; nil: it has not.
	Class error
}

// ExitCode is that of a command-line tool that ends for the error.
func (e *Error) ExitCode() int { return cmp.Or(e.Exit, container.ExitFailure) }

func (e *Error) Error() string { return e.Text }

// Is makes an error of the class that the agent has named, or else of that which its code
// stands for.
func (e *Error) Is(class error) bool {
	if e.Class != nil {
		return class == e.Class
	}
	return class != nil && class == map[int]error{
		http.StatusAccepted: container.ErrExists, http.StatusBadRequest: container.ErrInvalid, http.StatusNotFound: container.ErrNotFound,
		http.StatusConflict: container.ErrFailedPrecondition, http.StatusForbidden: container.ErrDenied,
		http.StatusServiceUnavailable: container.ErrUnavailable, http.StatusNotImplemented: container.ErrNotSupported,
	}[e.Code]
}

// Call asks, and returns the answer, which is empty where the call has none; code tells
// the successes apart (200, 202). *Error: the agent has refused. ErrUnavailable: no agent
// answers, it has not finished its recovery, or a peer of it has failed.
func (c *Client) Call(ctx context.Context, call *v1.Call) (response *v1.Response, code int, err error) {
	// Each berth run asks whether there is an agent, and mostly there is none. Then the
	// message and all of package http are not needed.
	if _, err := os.Lstat(c.socket); err != nil {
		return nil, 0, c.lost(err)
	}
	body, err := proto.Marshal(call)
	if err != nil {
		return nil, 0, err
	}
	answer, err := c.post(ctx, bytes.NewReader(body), http.Header{"Content-Type": {protobufMedia}, "Accept": {protobufMedia}})
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, 0, c.lost(err)
	}
	response = &v1.Response{}
	return response, answer.StatusCode, proto.Unmarshal(data, response)
}

// post sends a request; a refusal is an *Error.
func (c *Client) post(ctx context.Context, body io.Reader, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/api/v1", body)
	if err != nil {
		return nil, err
	}
	request.Header = header
	return c.do(request)
}

func (c *Client) do(request *http.Request) (*http.Response, error) {
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, c.lost(err)
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	exit, _ := strconv.Atoi(answer.Header.Get("Berth-Exit-Code"))
	return nil, &Error{answer.StatusCode, strings.TrimSpace(string(text)), exit, container.ClassNamed(answer.Header.Get("Berth-Error"))}
}

// lost says that there is no agent, if that is why a request has failed.
func (c *Client) lost(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("ask the agent at %s: %w: %w; start it with `berth agent`, or say with --runtime_dir where it is", c.socket, container.ErrUnavailable, cause(err))
	}
	return cause(err)
}

// ReadFiles begins a tar with a file of a container, or with a directory and all that is in
// it. The caller owes a Close.
func (c *Client) ReadFiles(ctx context.Context, id, path string) (io.ReadCloser, error) {
	answer, err := c.archive(ctx, http.MethodGet, id, path, nil)
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// WriteFiles unpacks a tar in a container: into the directory path, or else as path.
func (c *Client) WriteFiles(ctx context.Context, id, path string, r io.Reader) error {
	answer, err := c.archive(ctx, http.MethodPut, id, path, r)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

func (c *Client) archive(ctx context.Context, method, id, path string, body io.Reader) (*http.Response, error) {
	query := url.Values{"container": {id}, "path": {path}}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent/archive?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	return c.do(request)
}

// cause leaves out what package net/http says of an address that nobody has typed.
func cause(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// Stream is an answer that goes on. Close ends it.
type Stream struct {
	client  *Client
	body    *received
	records *recordio.Reader
}

// received is a body that remembers why it could be read no further.
type received struct {
	io.ReadCloser
	err error
}

func (b *received) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.err = err
	}
	return n, err
}

// Stream asks for an answer that goes on. Of a session that is there already, and so has no
// stream, the error is an *Error with the code 202.
func (c *Client) Stream(ctx context.Context, call *v1.Call) (*Stream, error) {
	body, err := proto.Marshal(call)
	if err != nil {
		return nil, err
	}
	answer, err := c.post(ctx, bytes.NewReader(body), http.Header{
		"Content-Type": {protobufMedia}, "Accept": {recordMedia}, "Message-Accept": {protobufMedia}})
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, &Error{Code: answer.StatusCode, Text: "it is there already"}
	}
	read := &received{ReadCloser: answer.Body}
	return &Stream{c, read, recordio.NewReader(read, maxRecord)}, nil
}

// Next reads the next message. io.EOF: the stream has ended. ErrUnavailable: the agent has.
func (s *Stream) Next(m proto.Message) error {
	record, err := s.records.Next()
	if err != nil && err != io.EOF && s.body.err != nil && s.body.err != io.EOF {
		return s.client.lost(s.body.err)
	}
	if err != nil {
		return err
	}
	return proto.Unmarshal(record, m)
}

// Close ends the stream.
func (s *Stream) Close() error { return s.body.Close() }

// Input is the way to the standard input of a container.
type Input struct {
	pipe *io.PipeWriter
	done chan struct{} // closed when the agent has answered, and then there is this:
	err  error
}

// Input attaches to the input of a container. Whether that could be shows at the first
// Send that fails, by Done, and in Close.
func (c *Client) Input(ctx context.Context, id *v1.ContainerID) (*Input, error) {
	reader, writer := io.Pipe()
	in := &Input{pipe: writer, done: make(chan struct{})}
	go func() { // ends with the answer
		answer, err := c.post(ctx, reader, http.Header{"Content-Type": {recordMedia}, "Message-Content-Type": {protobufMedia}, "Accept": {protobufMedia}})
		if err == nil {
			err = answer.Body.Close()
		}
		reader.CloseWithError(errEnded)
		in.err = err
		close(in.done)
	}()
	return in, in.send(&v1.Call_AttachContainerInput{Type: v1.Call_AttachContainerInput_CONTAINER_ID.Enum(), ContainerId: id})
}

// errEnded: the agent has answered already.
var errEnded = errors.New("the agent takes no more input")

// Send sends data, or a word about the terminal.
func (in *Input) Send(io *v1.ProcessIO) error {
	return in.send(&v1.Call_AttachContainerInput{Type: v1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: io})
}

func (in *Input) send(m *v1.Call_AttachContainerInput) error {
	data, err := proto.Marshal(&v1.Call{Type: v1.Call_ATTACH_CONTAINER_INPUT.Enum(), AttachContainerInput: m})
	if err != nil {
		return err
	}
	_, err = in.pipe.Write(recordio.Append(nil, data))
	return err
}

// Write sends bytes for the standard input.
func (in *Input) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return len(p), in.Send(stdin(p))
}

// CloseWrite says that there will be no more.
func (in *Input) CloseWrite() error { return in.Send(stdin(nil)) }

func stdin(p []byte) *v1.ProcessIO {
	return &v1.ProcessIO{Type: v1.ProcessIO_DATA.Enum(), Data: &v1.ProcessIO_Data{Type: v1.ProcessIO_Data_STDIN.Enum(), Data: p}}
}

// Resize tells the size of the window.
func (in *Input) Resize(rows, columns uint16) error {
	return in.Send(&v1.ProcessIO{Type: v1.ProcessIO_CONTROL.Enum(), Control: &v1.ProcessIO_Control{
		Type:    v1.ProcessIO_Control_TTY_INFO.Enum(),
		TtyInfo: &v1.TTYInfo{WindowSize: &v1.TTYInfo_WindowSize{Rows: proto.Uint32(uint32(rows)), Columns: proto.Uint32(uint32(columns))}},
	}})
}

// Close leaves the input as it is, and returns what the agent had to say.
func (in *Input) Close() error {
	in.pipe.Close()
	<-in.done
	return in.err
}

// Done is closed when the agent takes no more: Close tells why.
func (in *Input) Done() <-chan struct{} { return in.done }
