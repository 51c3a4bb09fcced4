package operator

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/recordio"
)

// The largest body of a request, and the largest record of one. A plan, which holds the
// same arguments and environment, has the same bound.
const maxMessage = 8 << 20

// bodyTimeout is how long a request may take, and of a stream the first record.
const bodyTimeout = 30 * time.Second

// maxDepth bounds how deep messages lie in each other; ids of nested containers are the
// only ones that need more than a few.
const maxDepth = 100

var errTooLarge = failed(http.StatusRequestEntityTooLarge, "the body is larger than the %d bytes that are allowed", maxMessage)

// call is a request with its first message.
type call struct {
	spoken
	*v1.Call
	subject Subject
	// more are the records after the first one, if the request is a stream.
	more *recordio.Reader
}

// readCall reads the message of a request, or the first one of a stream.
func readCall(w http.ResponseWriter, r *http.Request, s spoken) (*call, error) {
	c := &call{spoken: s}
	// A client that sends it slowly is not waited for. Afterwards there is time: for the end of
	// the connection, and between the records of a stream.
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(bodyTimeout)) // without it there is more time
	defer func() { _ = connection.SetReadDeadline(time.Time{}) }()
	if s.records {
		c.more = recordio.NewReader(r.Body, maxMessage)
		return c, c.next()
	}
	if r.ContentLength > maxMessage { // not a byte of it is read
		w.Header().Set("Connection", "close")
		return nil, errTooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, errTooLarge
	}
	if err != nil {
		return nil, failed(http.StatusBadRequest, "read the body: %v", err)
	}
	c.Call, err = decode(body, s.content)
	return c, err
}

// next reads the next message of a stream; io.EOF: there is none.
func (c *call) next() error {
	record, err := c.more.Next()
	if err == io.EOF && c.Call == nil {
		return failed(http.StatusBadRequest, "Failed to read the first record: the stream is empty")
	}
	if err == io.EOF {
		return err
	}
	if err != nil {
		return failed(http.StatusBadRequest, "%v", err)
	}
	c.Call, err = decode(record, c.content)
	return err
}

func decode(data []byte, form media) (*v1.Call, error) {
	message := &v1.Call{}
	if tooManyParts(data, form, message.ProtoReflect().Descriptor()) {
		return nil, failed(http.StatusBadRequest, "Failed to parse body into Call: it has more than the %d messages in it that are allowed", maxParts)
	}
	var err error
	if form == protobufMedia {
		err = proto.UnmarshalOptions{RecursionLimit: maxDepth}.Unmarshal(data, message)
	} else {
		err = v1.Unmarshal(data, message)
	}
	if err != nil {
		return nil, failed(http.StatusBadRequest, "Failed to parse body into Call: %v", err)
	}
	if message.Type == nil {
		return nil, invalid("Expecting 'type' to be present")
	}
	return message, nil
}

// invalid is the answer to a call that is well-formed, and wrong.
func invalid(format string, args ...any) *failure {
	return failed(http.StatusBadRequest, "Failed to validate agent::Call: "+format, args...)
}

func encode(m proto.Message, form media) ([]byte, error) {
	if form == protobufMedia {
		return proto.Marshal(m)
	}
	return v1.Marshal(m)
}

// containerID reads an id of the API; field is where it stands.
func containerID(m *v1.ContainerID, field string) (container.ID, error) {
	if m == nil {
		return container.ID{}, invalid("Expecting '%s' to be present", field)
	}
	id, err := idOf(m)
	if err != nil {
		return container.ID{}, invalid("'%s' is invalid: %v", field, err)
	}
	return id, nil
}

// idOf turns an id of the API into one of berth's. Values with a dot are refused: it
// separates them.
func idOf(m *v1.ContainerID) (container.ID, error) {
	if m.GetParent() == nil {
		id, err := container.ParseID(m.GetValue())
		if err == nil && id.Value() != m.GetValue() {
			err = fmt.Errorf("container id %q: %w: a value may not contain a dot", m.GetValue(), container.ErrInvalid)
		}
		return id, err
	}
	parent, err := idOf(m.GetParent())
	if err != nil {
		return parent, err
	}
	return parent.Child(m.GetValue())
}
