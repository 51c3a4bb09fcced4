package operator

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxParts bounds how many messages a message has in it. One takes at least two bytes of a body,
// and a hundred of memory.
const maxParts = 1 << 16

// tooManyParts reports whether a body has more messages in it than maxParts. What is malformed
// is for who decodes it to find.
func tooManyParts(data []byte, form media, of protoreflect.MessageDescriptor) bool {
	if len(data) <= 2*maxParts { // as nearly every body: it cannot have more
		return false
	}
	if form == protobufMedia {
		return parts(data, of, maxDepth) > maxParts
	}
	return objects(data) > maxParts
}

// parts counts the messages in one, as far as it is well-formed.
func parts(data []byte, of protoreflect.MessageDescriptor, depth int) (count int) {
	for len(data) > 0 && depth > 0 && count <= maxParts {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return count
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return count
		}
		if field := of.Fields().ByNumber(number); kind == protowire.BytesType && field != nil && field.Message() != nil {
			inner, _ := protowire.ConsumeBytes(data)
			count += 1 + parts(inner, field.Message(), depth-1)
		}
		data = data[n:]
	}
	return count
}

// objects counts the objects of a text in JSON.
func objects(text []byte) (count int) {
	inString := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && inString:
			i++ // what it escapes
		case c == '"':
			inString = !inString
		case c == '{' && !inString:
			count++
		}
	}
	return count
}
