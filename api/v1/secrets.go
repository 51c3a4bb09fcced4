package v1

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// WithoutSecrets returns a copy of a message in which the data of every Secret is empty: what
// may be written to a disk.
func WithoutSecrets[M proto.Message](m M) M {
	m = proto.CloneOf(m)
	forget(m.ProtoReflect())
	return m
}

func forget(m protoreflect.Message) {
	if value, ok := m.Interface().(*Secret_Value); ok {
		value.Data = []byte{}
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { forget(v.Message()); return true })
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				forget(value.List().Get(i).Message())
			}
		default:
			forget(value.Message())
		}
		return true
	})
}
