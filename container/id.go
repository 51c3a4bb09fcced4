package container

import (
	"fmt"
	"strings"
)

// maxIDValue bounds one value of an ID. File systems allow 255 bytes in a name;
// the rest leaves room for the suffixes of temporary files.
const maxIDValue = 242

// ID names a container. Its text form joins the values from the root container
// to the leaf with dots: "root.child.grandchild". The zero ID names no container.
//
// IDs are comparable and may be map keys.
type ID struct {
	path string
}

// ParseID reads the text form of an ID. Every value must be non-empty, at most
// 242 bytes, not contain '/', '\', a space or a control character.
// The error is of class ErrInvalid and names the value.
func ParseID(s string) (ID, error) {
	for _, value := range strings.Split(s, ".") {
		if err := checkValue(value); err != nil {
			return ID{}, fmt.Errorf("container id %q: %w", s, err)
		}
	}
	return ID{path: s}, nil
}

// Child returns the ID of the container value nested in id.
func (id ID) Child(value string) (ID, error) {
	if strings.Contains(value, ".") {
		return ID{}, fmt.Errorf("container id %q: %w: a value may not contain a dot", value, ErrInvalid)
	}
	return ParseID(id.path + "." + value)
}

func checkValue(value string) error {
	switch {
	case value == "":
		return fmt.Errorf("%w: empty value", ErrInvalid)
	case len(value) > maxIDValue:
		return fmt.Errorf("%w: a value has %d bytes, at most %d are allowed", ErrInvalid, len(value), maxIDValue)
	}
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c == 0x7f || c == '/' || c == '\\' {
			return fmt.Errorf("%w: the character %q is not allowed", ErrInvalid, c)
		}
	}
	return nil
}

// String returns the text form.
func (id ID) String() string { return id.path }

// IsZero reports whether id names no container.
func (id ID) IsZero() bool { return id.path == "" }

// Values returns the values from the root to the leaf.
func (id ID) Values() []string { return strings.Split(id.path, ".") }

// Value returns the leaf's value.
func (id ID) Value() string { return id.path[strings.LastIndexByte(id.path, '.')+1:] }

// Parent returns the ID of the container that id is nested in, and false for a
// root container.
func (id ID) Parent() (ID, bool) {
	dot := strings.LastIndexByte(id.path, '.')
	if dot < 0 {
		return ID{}, false
	}
	return ID{path: id.path[:dot]}, true
}
