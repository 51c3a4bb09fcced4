package v1

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDepth bounds how deep objects and arrays may be nested in the input. The
// messages themselves need less than twenty, except for a ContainerID, which has
// one level for each parent.
const maxDepth = 100

// A decoder turns a stream of JSON tokens into a message. Its methods take the first
// token of the value that they read and return after the last.
type decoder struct {
	json  *json.Decoder
	depth int // of objects and arrays that are open
}

// next returns the next token, and guards the depth.
func (d *decoder) next() (json.Token, error) {
	token, err := d.json.Token()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, invalid("the JSON text ends too early")
	case err != nil:
		return nil, invalid("after byte %d: %v", d.json.InputOffset(), err)
	}
	switch token {
	case json.Delim('{'), json.Delim('['):
		if d.depth++; d.depth > maxDepth {
			return nil, invalid("nested deeper than %d levels", maxDepth)
		}
	case json.Delim('}'), json.Delim(']'):
		d.depth--
	}
	return token, nil
}

// skip reads the next value and forgets it.
func (d *decoder) skip() error {
	for outside := d.depth; ; {
		if _, err := d.next(); err != nil || d.depth == outside {
			return err
		}
	}
}

// members calls read for each member of an object, which reads the value.
func (d *decoder) members(first json.Token, read func(name string) error) error {
	if first != json.Delim('{') {
		return mismatch("an object", first)
	}
	for d.json.More() {
		token, err := d.next()
		if err != nil {
			return err
		}
		if err := read(token.(string)); err != nil { // where a name is due, the decoder returns nothing else
			return err
		}
	}
	_, err := d.next()
	return err
}

func (d *decoder) message(m protoreflect.Message, first json.Token) error {
	fields := m.Descriptor().Fields()
	err := d.members(first, func(name string) error {
		field := fields.ByName(protoreflect.Name(name))
		if field == nil {
			return d.skip()
		}
		return at(name, d.field(m, field))
	})
	if err != nil {
		return err
	}
	required := m.Descriptor().RequiredNumbers()
	for i := range required.Len() {
		if field := fields.ByNumber(required.Get(i)); !m.Has(field) {
			return at(string(field.Name()), errMissing)
		}
	}
	return nil
}

func (d *decoder) field(m protoreflect.Message, field protoreflect.FieldDescriptor) error {
	if m.Has(field) {
		return errTwice
	}
	first, err := d.next()
	if err != nil || first == nil {
		return err
	}
	if union := field.ContainingOneof(); union != nil && m.WhichOneof(union) != nil {
		return invalid("excluded by %s", m.WhichOneof(union).Name())
	}
	switch {
	case field.IsMap():
		return d.entries(m.Mutable(field).Map(), field, first)
	case field.IsList():
		return d.list(m.Mutable(field).List(), field, first)
	}
	value, err := d.value(field, first, func() protoreflect.Value { return m.NewField(field) })
	if value.IsValid() {
		m.Set(field, value)
	}
	return err
}

func (d *decoder) list(list protoreflect.List, field protoreflect.FieldDescriptor, first json.Token) error {
	if first != json.Delim('[') {
		return mismatch("an array", first)
	}
	for i := 0; d.json.More(); i++ {
		first, err := d.next()
		if err != nil {
			return err
		}
		value, err := d.value(field, first, list.NewElement)
		if err != nil {
			return at(fmt.Sprintf("[%d]", i), err)
		}
		list.Append(value)
	}
	_, err := d.next()
	return err
}

func (d *decoder) entries(entries protoreflect.Map, field protoreflect.FieldDescriptor, first json.Token) error {
	return d.members(first, func(name string) error {
		step := fmt.Sprintf("[%.64q]", name)
		key, err := scalar(field.MapKey(), name)
		if err != nil {
			return at(step, err)
		}
		if entries.Has(key.MapKey()) {
			return at(step, errTwice)
		}
		first, err := d.next()
		if err != nil {
			return at(step, err)
		}
		value, err := d.value(field.MapValue(), first, entries.NewValue)
		if value.IsValid() {
			entries.Set(key.MapKey(), value)
		}
		return at(step, err)
	})
}

// value reads one value of a field: that of a singular one, an element, a map's value.
// A result that is not valid means, of the first and the last: as if it were not there.
func (d *decoder) value(field protoreflect.FieldDescriptor, first json.Token, fresh func() protoreflect.Value) (protoreflect.Value, error) {
	if field.Message() == nil {
		return scalar(field, first)
	}
	value := fresh()
	return value, d.message(value.Message(), first)
}

func scalar(field protoreflect.FieldDescriptor, token json.Token) (value protoreflect.Value, err error) {
	text, isString := token.(string)
	switch kind := field.Kind(); kind {
	case protoreflect.StringKind:
		if isString {
			return protoreflect.ValueOfString(text), nil
		}
	case protoreflect.BytesKind:
		if isString {
			decoded, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return value, invalid("malformed base64")
			}
			return protoreflect.ValueOfBytes(decoded), nil
		}
	case protoreflect.EnumKind:
		if isString {
			return enum(field, text)
		}
	case protoreflect.BoolKind:
		switch token {
		case true, "true":
			return protoreflect.ValueOfBool(true), nil
		case false, "false":
			return protoreflect.ValueOfBool(false), nil
		}
	default:
		if number, ok := token.(json.Number); ok {
			return numeric(kind, string(number))
		} else if isString {
			return numeric(kind, text)
		}
	}
	return value, mismatch(field.Kind().String(), token)
}

func enum(field protoreflect.FieldDescriptor, name string) (value protoreflect.Value, err error) {
	values := field.Enum().Values()
	if known := values.ByName(protoreflect.Name(name)); known != nil {
		return protoreflect.ValueOfEnum(known.Number()), nil
	}
	switch field.Cardinality() {
	case protoreflect.Optional:
		return value, nil
	case protoreflect.Repeated:
		return value, invalid("%.64q is no %s", name, field.Enum().Name())
	}
	names := make([]string, values.Len())
	for i := range names {
		names[i] = string(values.Get(i).Name())
	}
	return value, invalid("%.64q is none of %s", name, strings.Join(names, ", "))
}

func numeric(kind protoreflect.Kind, text string) (value protoreflect.Value, err error) {
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		var n int64
		n, err = strconv.ParseInt(integral(text), 10, 32)
		value = protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		var n uint64
		n, err = strconv.ParseUint(integral(text), 10, 32)
		value = protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		var n int64
		n, err = strconv.ParseInt(integral(text), 10, 64)
		value = protoreflect.ValueOfInt64(n)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		var n uint64
		n, err = strconv.ParseUint(integral(text), 10, 64)
		value = protoreflect.ValueOfUint64(n)
	case protoreflect.FloatKind:
		var f float64
		f, err = double(text, 32)
		value = protoreflect.ValueOfFloat32(float32(f))
	default: // DoubleKind; all others are taken care of
		var f float64
		f, err = double(text, 64)
		value = protoreflect.ValueOfFloat64(f)
	}
	if err != nil {
		return protoreflect.Value{}, invalid("%.64q is no %s", text, kind)
	}
	return value, nil
}

// integral rewrites a number like 15.0 or 5e9, as writers make them that know only
// doubles, without point and exponent. What is no such number stays as it is.
func integral(text string) string {
	if f, err := double(text, 64); err == nil && f == math.Trunc(f) && strings.ContainsAny(text, ".eE") {
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return text
}

// double reads a number of JSON's form: strconv takes more, such as hexadecimal.
func double(text string, bits int) (float64, error) {
	switch text {
	case "Infinity":
		return math.Inf(1), nil
	case "-Infinity":
		return math.Inf(-1), nil
	}
	if strings.Trim(text, "+-.0123456789eE") != "" || !json.Valid([]byte(text)) {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(text, bits)
}

// mismatch says what was wanted, and of what kind the value is that begins with token.
func mismatch(want string, token json.Token) error {
	got := "null"
	switch token := token.(type) {
	case json.Delim:
		got = map[json.Delim]string{'{': "an object", '[': "an array"}[token]
	case string:
		got = "a string"
	case json.Number:
		got = "a number"
	case bool:
		got = strconv.FormatBool(token)
	}
	return invalid("want %s, got %s", want, got)
}
