// Package strictjson reads JSON documents of strangers: bounded, and such that no two
// readers can understand them differently.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"berth/container"
)

// MaxTokens bounds a document beside its size: 4 MiB of "[{},{},..." become far
// more memory than 4 MiB.
const MaxTokens = 1 << 18

// Decode reads a document of at most most bytes into v: bounded, one JSON value, and no
// object that says a thing twice. Every error is of class ErrInvalid, or of the class
// of a Digest inside.
func Decode(body []byte, most int, v any) error {
	switch {
	case len(body) > most:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", container.ErrInvalid, len(body), most)
	case !json.Valid(body):
		return fmt.Errorf("%w: it is not JSON", container.ErrInvalid)
	}
	if err := checkUnambiguous(body); err != nil {
		return err
	}
	return Unmarshal(body, v)
}

// Unmarshal is json.Unmarshal whose errors speak of the document, not of Go.
func Unmarshal(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	var mistyped *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mistyped):
		field := mistyped.Field
		if field == "" {
			field = "the value"
		}
		return fmt.Errorf("%w: %s cannot be a %s", container.ErrInvalid, field, mistyped.Value)
	case errors.Is(err, container.ErrInvalid), errors.Is(err, container.ErrNotSupported):
		return err
	}
	return fmt.Errorf("%w: %w", container.ErrInvalid, err)
}

// freeKeys are those objects whose keys are data: "A" and "a" are two labels.
var freeKeys = map[string]bool{
	fold("annotations"): true, fold("Labels"): true, fold("Volumes"): true, fold("ExposedPorts"): true,
}

// object is one that is being read. keys is nil for an array.
type object struct {
	free bool
	keys map[string]struct{}
	key  string // the one whose value comes next; "" while a key comes next
}

// checkUnambiguous refuses valid JSON in which an object has one key twice:
// readers differ in which value wins, so that what was scanned or signed would not
// be what runs. Go's decoder takes "LAYERS" for "layers", hence keys that differ only
// in case are the same key.
func checkUnambiguous(body []byte) error {
	var open []*object
	tokens := json.NewDecoder(bytes.NewReader(body))
	tokens.UseNumber()
	for count := 0; ; count++ {
		token, err := tokens.Token()
		switch {
		case err != nil: // io.EOF: the document was valid before
			return nil
		case count > MaxTokens:
			return fmt.Errorf("%w: it has more than %d values", container.ErrInvalid, MaxTokens)
		}
		var top *object
		if len(open) > 0 {
			top = open[len(open)-1]
		}
		delim, isDelim := token.(json.Delim)
		switch {
		case isDelim && (delim == '}' || delim == ']'):
			open = open[:len(open)-1]
			continue
		case top.wantsKey():
			if err := top.add(token.(string)); err != nil {
				return err
			}
			continue
		case isDelim:
			open = append(open, top.child(delim))
		}
		top.valueDone()
	}
}

func (o *object) wantsKey() bool { return o != nil && o.keys != nil && o.key == "" }

func (o *object) add(key string) error {
	folded := key
	if !o.free {
		folded = fold(key)
	}
	if _, twice := o.keys[folded]; twice {
		return fmt.Errorf("%w: an object has the key %s twice", container.ErrInvalid, quote(key))
	}
	o.keys[folded] = struct{}{}
	o.key = "=" + fold(key) // never "", even for an empty key
	return nil
}

func (o *object) child(delim json.Delim) *object {
	if delim == '[' {
		return &object{}
	}
	return &object{
		free: o != nil && freeKeys[strings.TrimPrefix(o.key, "=")],
		keys: map[string]struct{}{},
	}
}

func (o *object) valueDone() {
	if o != nil {
		o.key = ""
	}
}

// fold maps strings that encoding/json takes for one key to one string.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, s)
}

// Stated reports whether a member is there: null means that it is not.
func Stated(raw json.RawMessage) bool {
	return len(raw) > 0 && !bytes.Equal(raw, []byte("null"))
}

// quote makes what a stranger wrote fit to print.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
