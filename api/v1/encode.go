package v1

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// An encoder turns a message into JSON text.
type encoder struct {
	out  bytes.Buffer
	json *json.Encoder // writes to out
}

func (e *encoder) message(m protoreflect.Message) error {
	e.out.WriteByte('{')
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name := string(field.Name())
		if !emitted(m, field) {
			if field.Cardinality() == protoreflect.Required {
				return at(name, errMissing)
			}
			continue
		}
		e.literal(name)
		e.out.WriteByte(':')
		if err := e.value(field, m.Get(field)); err != nil { // Get returns the default of what is not set
			return at(name, err)
		}
		e.out.WriteByte(',')
	}
	e.end('}')
	return nil
}

// deprecatedDefault is the only field with a default that is deprecated. Descriptors say so
// too, in options that are messages themselves: with those, every command would start by
// registering the messages of descriptors.
const deprecatedDefault = "mesos.v1.Resource.role"

// emitted tells whether the text has the field.
func emitted(m protoreflect.Message, field protoreflect.FieldDescriptor) bool {
	switch {
	case !m.Has(field):
		return field.HasDefault() && field.FullName() != deprecatedDefault
	case field.Kind() == protoreflect.EnumKind && !field.IsList():
		return enumName(field, m.Get(field).Enum()) != ""
	}
	return true
}

func (e *encoder) list(field protoreflect.FieldDescriptor, list protoreflect.List) error {
	e.out.WriteByte('[')
	for i := range list.Len() {
		element := list.Get(i)
		if field.Kind() == protoreflect.EnumKind && enumName(field, element.Enum()) == "" {
			continue
		}
		if err := e.value(field, element); err != nil {
			return at(fmt.Sprintf("[%d]", i), err)
		}
		e.out.WriteByte(',')
	}
	e.end(']')
	return nil
}

// entries writes a map in the order of its keys, so that equal messages have equal texts.
func (e *encoder) entries(field protoreflect.FieldDescriptor, entries protoreflect.Map) error {
	var keys []protoreflect.MapKey
	for key := range entries.Range {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return cmp.Compare(a.String(), b.String()) })

	e.out.WriteByte('{')
	for _, key := range keys {
		e.literal(key.String())
		e.out.WriteByte(':')
		if err := e.value(field.MapValue(), entries.Get(key)); err != nil {
			return at(fmt.Sprintf("[%.64q]", key.String()), err)
		}
		e.out.WriteByte(',')
	}
	e.end('}')
	return nil
}

func (e *encoder) value(field protoreflect.FieldDescriptor, value protoreflect.Value) error {
	switch v := value.Interface().(type) {
	case protoreflect.Message:
		return e.message(v)
	case protoreflect.List:
		return e.list(field, v)
	case protoreflect.Map:
		return e.entries(field, v)
	case protoreflect.EnumNumber:
		e.literal(enumName(field, v))
	case []byte:
		e.literal(base64.StdEncoding.EncodeToString(v))
	case float32:
		return e.double(float64(v))
	case float64:
		return e.double(v)
	default: // bool, string and the integers, which encoding/json writes as we want them
		e.literal(v)
	}
	return nil
}

func (e *encoder) double(f float64) error {
	switch {
	case math.IsNaN(f):
		return invalid("a NaN has no JSON form")
	case math.IsInf(f, 1):
		e.literal("Infinity")
	case math.IsInf(f, -1):
		e.literal("-Infinity")
	default:
		start := e.out.Len()
		e.literal(f)
		if !bytes.ContainsAny(e.out.Bytes()[start:], ".e") {
			e.out.WriteString(".0") // as Mesos does, for readers that tell 1.0 from 1
		}
	}
	return nil
}

// end closes an object or an array, each member of which is followed by a comma.
func (e *encoder) end(bracket byte) {
	if text := e.out.Bytes(); text[len(text)-1] == ',' {
		e.out.Truncate(len(text) - 1)
	}
	e.out.WriteByte(bracket)
}

// literal writes a value that encoding/json cannot refuse.
func (e *encoder) literal(v any) {
	if err := e.json.Encode(v); err != nil {
		panic(fmt.Sprintf("encode %T as JSON: %v", v, err))
	}
	e.out.Truncate(e.out.Len() - 1) // the newline that Encode adds
}

// enumName returns "" for a number that has no name.
func enumName(field protoreflect.FieldDescriptor, number protoreflect.EnumNumber) string {
	if known := field.Enum().Values().ByNumber(number); known != nil {
		return string(known.Name())
	}
	return ""
}
