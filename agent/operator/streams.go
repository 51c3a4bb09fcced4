package operator

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/recordio"
)

// writeTimeout is how long a client may take nothing of a stream before it is given up.
const writeTimeout = time.Minute

// stream is an answer that goes on: records, with a sign of life in between.
type stream struct {
	w         http.ResponseWriter
	control   *http.ResponseController
	form      media
	heartbeat time.Duration

	mu  sync.Mutex
	err error
}

func newStream(w http.ResponseWriter, form media, heartbeat time.Duration) *stream {
	return &stream{w: w, control: http.NewResponseController(w), form: form, heartbeat: heartbeat}
}

// begin says that the call has succeeded so far.
func (s *stream) begin() {
	s.w.Header().Set("Content-Type", string(recordMedia))
	s.w.Header().Set("Message-Content-Type", string(s.form))
	s.w.WriteHeader(http.StatusOK)
	_ = s.control.Flush() // the first record finds out what is wrong
}

// send writes one record. After an error there is nobody to write to.
func (s *stream) send(m proto.Message) error {
	data, err := encode(m, s.form)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // without it the client has more time
	_, s.err = s.w.Write(recordio.Append(nil, data))
	if s.err == nil {
		s.err = s.control.Flush()
	}
	return s.err
}

// beat sends signs of life until ctx ends. alive makes one of them.
func (s *stream) beat(ctx context.Context, alive func(interval time.Duration) proto.Message) error {
	ticker := time.NewTicker(s.heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := s.send(alive(s.heartbeat)); err != nil {
				return err
			}
		}
	}
}

func heartbeatIO(interval time.Duration) proto.Message {
	return &v1.ProcessIO{Type: v1.ProcessIO_CONTROL.Enum(), Control: &v1.ProcessIO_Control{
		Type:      v1.ProcessIO_Control_HEARTBEAT.Enum(),
		Heartbeat: &v1.ProcessIO_Control_Heartbeat{Interval: &v1.DurationInfo{Nanoseconds: proto.Int64(int64(interval))}},
	}}
}

// attachOutput streams the outputs of a container.
func (s *Server) attachOutput(out *stream, r *http.Request, c *call) error {
	m := c.GetAttachContainerOutput()
	id, err := containerID(m.GetContainerId(), "attach_container_output.container_id")
	if err != nil {
		return err
	}
	from := containerizer.FromNow
	if m.GetFromBeginning() {
		from = containerizer.FromStart
	}
	outputs, err := s.openOutputs(r.Context(), id, from)
	if err != nil {
		return err
	}
	out.begin()
	outputs.copy(r.Context(), out)
	return nil
}

// outputs are those of one container.
type outputs map[v1.ProcessIO_Data_Type]io.ReadCloser

func (s *Server) openOutputs(ctx context.Context, id container.ID, from containerizer.Position) (outputs, error) {
	all := make(outputs)
	for kind, name := range map[v1.ProcessIO_Data_Type]containerizer.Stream{v1.ProcessIO_Data_STDOUT: containerizer.Stdout, v1.ProcessIO_Data_STDERR: containerizer.Stderr} {
		output, err := s.Containers.AttachOutput(ctx, id, name, from)
		if err != nil {
			all.close()
			return nil, err
		}
		all[kind] = output
	}
	return all, nil
}

func (o outputs) close() {
	for _, output := range o {
		output.Close()
	}
}

// copy streams all outputs, until they have ended or ctx has, and closes them.
func (o outputs) copy(ctx context.Context, to *stream) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, o.close)()
	defer o.close()
	var beating, copying sync.WaitGroup
	beating.Go(func() {
		if to.beat(ctx, heartbeatIO) != nil {
			cancel()
		}
	})
	for kind, output := range o {
		copying.Go(func() {
			if copyOutput(kind, output, to) != nil {
				cancel()
			}
		})
	}
	copying.Wait()
	cancel()
	beating.Wait()
}

// chunk bounds what one record has of an output.
const chunk = 32 << 10

func copyOutput(kind v1.ProcessIO_Data_Type, from io.Reader, to *stream) error {
	buffer := make([]byte, chunk)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			data := &v1.ProcessIO{Type: v1.ProcessIO_DATA.Enum(), Data: &v1.ProcessIO_Data{Type: kind.Enum(), Data: buffer[:n]}}
			if sent := to.send(data); sent != nil {
				return sent
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, containerizer.ErrLost): // and on it goes
		case err != nil:
			return err
		}
	}
}

// attachInput writes the records of the request to the input of a container. It answers
// when the client has ended its stream, which leaves the input as it is.
func (s *Server) attachInput(ctx context.Context, c *call) (*answered, error) {
	first := c.GetAttachContainerInput()
	if first.GetType() != v1.Call_AttachContainerInput_CONTAINER_ID {
		return nil, invalid("Expecting 'attach_container_input.type' to be CONTAINER_ID in the first record")
	}
	id, err := containerID(first.GetContainerId(), "attach_container_input.container_id")
	if err != nil {
		return nil, err
	}
	input, err := s.Containers.AttachInput(ctx, id)
	if errors.Is(err, container.ErrExists) {
		return nil, &failure{error: multipleInputs{err}, code: http.StatusConflict}
	}
	if errors.Is(err, containerizer.ErrClosed) { // Mesos: as of a container that has ended
		return nil, failed(http.StatusInternalServerError, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	defer input.Close()
	defer context.AfterFunc(ctx, func() { input.Close() })()
	for {
		switch err := c.next(); {
		case err == io.EOF:
			return &answered{}, nil
		case err != nil:
			return nil, err
		}
		if err := s.take(ctx, id, input, c.Call); err != nil {
			return nil, err
		}
	}
}

// multipleInputs says in the words of Mesos that an input has a writer.
type multipleInputs struct{ error }

func (multipleInputs) Error() string   { return "Multiple input connections are not allowed" }
func (m multipleInputs) Unwrap() error { return m.error }

// take carries out one record of an input.
func (s *Server) take(ctx context.Context, id container.ID, input containerizer.Input, c *v1.Call) error {
	m := c.GetAttachContainerInput()
	process := m.GetProcessIo()
	data, control := process.GetData(), process.GetControl()
	switch {
	case c.GetType() != v1.Call_ATTACH_CONTAINER_INPUT || m.GetType() != v1.Call_AttachContainerInput_PROCESS_IO:
		return invalid("Expecting records of the type PROCESS_IO after the first one")
	case process.GetType() == v1.ProcessIO_DATA && data.GetType() == v1.ProcessIO_Data_STDIN && len(data.GetData()) == 0:
		return input.CloseWrite()
	case process.GetType() == v1.ProcessIO_DATA && data.GetType() == v1.ProcessIO_Data_STDIN:
		_, err := input.Write(data.GetData())
		if errors.Is(err, containerizer.ErrClosed) {
			return nil // as a pipe whose reader has gone: what else comes is for nobody
		}
		return err
	case process.GetType() == v1.ProcessIO_CONTROL && control.GetType() == v1.ProcessIO_Control_HEARTBEAT:
		return nil
	case process.GetType() == v1.ProcessIO_CONTROL && control.GetType() == v1.ProcessIO_Control_TTY_INFO:
		size := control.GetTtyInfo().GetWindowSize()
		if size.GetRows() > math.MaxUint16 || size.GetColumns() > math.MaxUint16 {
			return invalid("a window of %d rows and %d columns; the kernel knows at most %d of each", size.GetRows(), size.GetColumns(), math.MaxUint16)
		}
		if err := s.Containers.Resize(ctx, id, uint16(size.GetRows()), uint16(size.GetColumns())); err != nil {
			return failed(http.StatusBadRequest, "%v", err)
		}
		return nil
	}
	return invalid("Expecting 'process_io' to be data of STDIN, a window or a heartbeat")
}

// launchSession launches a container and streams its output and its end. It ends with the
// connection.
func (s *Server) launchSession(out *stream, r *http.Request, c *call) error {
	m := c.GetLaunchContainer()
	id, request, err := s.requested(m)
	if err != nil {
		return err
	}
	return s.session(out, r, c, session{id: id, request: request, tellEnd: true, remove: m.GetAutoRemove()})
}

// launchNestedSession launches a container that looks into another one.
func (s *Server) launchNestedSession(out *stream, r *http.Request, c *call) error {
	m := c.GetLaunchNestedContainerSession()
	id, err := nestedID(m.GetContainerId(), "launch_nested_container_session.container_id")
	if err != nil {
		return err
	}
	if linux := m.GetContainer().GetLinuxInfo(); linux != nil && linux.ShareCgroups != nil && !linux.GetShareCgroups() {
		return invalid("a session shares the cgroups of its parent: it cannot set 'share_cgroups' to 'false'")
	}
	config := &v1.ContainerConfig{CommandInfo: m.GetCommand(), ContainerInfo: m.GetContainer(), ContainerClass: v1.ContainerClass_DEBUG.Enum(),
		WorkingDirectory: m.WorkingDirectory}
	return s.session(out, r, c, session{id: id, request: containerizer.Request{Config: config, Input: m.GetInteractive()},
		tellEnd: m.GetAutoRemove(), remove: m.GetAutoRemove()})
}

// session is a container that lives as long as the connection of who launched it.
type session struct {
	id      container.ID
	request containerizer.Request
	tellEnd bool // the last record says how it has ended
	remove  bool // and then it is removed
}

func (s *Server) session(out *stream, r *http.Request, c *call, of session) error {
	launched, err := s.launch(r.Context(), of.id, of.request)
	if err != nil {
		return err
	}
	if launched.code == http.StatusAccepted {
		return respond(out.w, c, launched)
	}
	ended := s.watch(out, r, of)
	// Whether its command has ended, or the client has gone.
	s.end(context.WithoutCancel(r.Context()), of)
	if of.tellEnd && ended != nil { // once nothing is left
		_ = out.send(&v1.ProcessIO{Type: v1.ProcessIO_CONTROL.Enum(), Control: &v1.ProcessIO_Control{Type: v1.ProcessIO_Control_ENDED.Enum(), Ended: ended}})
	}
	return nil
}

// watch streams the output of a session, and returns how that has ended; nil: the client
// has gone before.
func (s *Server) watch(out *stream, r *http.Request, of session) *v1.Response_WaitContainer {
	outputs, err := s.openOutputs(r.Context(), of.id, containerizer.FromStart)
	out.begin()
	if err == nil {
		outputs.copy(r.Context(), out)
	}
	// Of an error here the client is told by a stream without an end.
	ended, waitErr := s.wait(r.Context(), of.id)
	if err = errors.Join(err, waitErr); err != nil && r.Context().Err() == nil {
		s.Log.Error("watch a session", slog.String("container", of.id.String()), slog.Any("error", err))
	}
	return ended
}

// end destroys the container of a session. When the agent ends, who takes its place is to
// judge.
func (s *Server) end(ctx context.Context, of session) {
	if s.ends.Load() {
		return
	}
	_, err := s.Containers.Destroy(ctx, of.id)
	if of.remove {
		err = errors.Join(err, s.Containers.Remove(ctx, of.id))
	}
	if err != nil {
		s.Log.Error("end a session", slog.String("container", of.id.String()), slog.Any("error", err))
	}
}
