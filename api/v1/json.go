package v1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"berth/container"
)

// Unmarshal replaces m with the message that the JSON text data describes. After an
// error m is incomplete and of no use.
//
// An object's members are fields, by their names in the .proto file; members that
// are no field are ignored. null leaves a field unset, and so does the name of an
// enum value that is not known: a newer peer may know more. In a list, as of
// capabilities, it is an error: another list is another request. A number may be written as a string, as may true and false; a double
// may be "Infinity" or "-Infinity". Bytes are in base64 (RFC 4648, section 4). Half a
// surrogate pair in a string stands for U+FFFD.
//
// What would have to be guessed at is an error: a required field that is missing, a
// field that is given twice, two members of one oneof, a value of another type than
// the field, a number that does not fit, text that is not UTF-8 or nested deeper than
// 100 levels, anything after the object. All these errors are of class
// container.ErrInvalid and begin with the path of the field, if it is about one, for
// example "container.volumes[2].mode: ". They repeat numbers and names of enum values, but
// no other content, as that may be secret.
//
// Time and memory are in proportion to len(data), whatever data is. The factor can
// be a hundred ("{}," in a list makes a message), so limit the length of what comes
// from outside.
func Unmarshal(data []byte, m proto.Message) error {
	proto.Reset(m)
	// encoding/json would replace the bad bytes, and a path would become another one.
	if !utf8.Valid(data) {
		return invalid("the text is not UTF-8")
	}
	d := decoder{json: json.NewDecoder(bytes.NewReader(data))}
	d.json.UseNumber()
	first, err := d.next()
	if err != nil {
		return err
	}
	if err := d.message(m.ProtoReflect(), first); err != nil {
		return err
	}
	if _, err := d.json.Token(); err != io.EOF {
		return invalid("there is more after the object's end at byte %d", d.json.InputOffset())
	}
	return nil
}

// Marshal returns the JSON form of m, as Unmarshal reads it, in one line.
//
// Besides the fields that are set, it has those that are not set but have a default
// of their own in the .proto file (shell, extract, cached...), so that a reader need
// not know the defaults; deprecated ones excepted. 64-bit integers are numbers, not
// strings as protobuf's own mapping has them: a reader must not put them in a double.
// Enum values without a name are left out. Bytes in a string that are not UTF-8
// appear as U+FFFD, because JSON cannot hold them.
//
// A required field that is not set and a NaN are errors of class container.ErrInvalid.
func Marshal(m proto.Message) ([]byte, error) {
	var e encoder
	e.json = json.NewEncoder(&e.out)
	e.json.SetEscapeHTML(false)
	if err := e.message(m.ProtoReflect()); err != nil {
		return nil, err
	}
	return e.out.Bytes(), nil
}

// Prepare makes ready what it takes to copy m and to write it. Without it that is done at the
// first use of messages of its types, and takes some half a millisecond; whoever has to wait
// for something else first calls it meanwhile.
func Prepare(m proto.Message) { _, _ = Marshal(WithoutSecrets(m)) } // what is wrong with m is said to whoever uses it

var (
	errMissing = invalid("required, but missing")
	errTwice   = invalid("given twice")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", container.ErrInvalid, fmt.Sprintf(format, args...))
}

// A fieldError is an error with the place where it happened. The place is put together
// while the error travels up, so that it costs nothing as long as there is none.
type fieldError struct {
	path string // such as volumes[2].mode
	err  error
}

func (e *fieldError) Error() string { return e.path + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

// at adds a step before the path of err: a field's name, or an index or key in brackets.
func at(step string, err error) error {
	var inner *fieldError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &inner):
		return &fieldError{path: step, err: err}
	case strings.HasPrefix(inner.path, "["):
		return &fieldError{path: step + inner.path, err: inner.err}
	}
	return &fieldError{path: step + "." + inner.path, err: inner.err}
}
