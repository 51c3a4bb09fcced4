package fetch

import "berth/image"

// Annotator is a Kind that has more to record of an image than all have.
type Annotator interface {
	Kind
	// NewNotes returns empty notes, a pointer that JSON can be decoded into. Those of a
	// record are decoded so.
	NewNotes() Notes
}

// Notes are what an Annotator records of an image beside what all record. They are
// encoded as JSON. Several goroutines may read them at a time.
type Notes interface {
	// Check is called once for notes that were read with a record, and for no others. It
	// completes the configuration by what only the notes say. An error says that they
	// cannot be relied on, so that the image is pulled anew.
	Check(config *image.Config) error
	// Trusted reports whether the image may be used as it was recorded; else it is pulled
	// anew.
	Trusted() bool
}

// Recorded is what a record says of where its image came from.
type Recorded struct {
	// File is what the image was read from, nil for a registry.
	File *File
	// Notes are those of the kind, nil unless it is an Annotator.
	Notes Notes
}

// newNotes returns a maker of a kind's notes.
func newNotes(k Kind) func() Notes {
	if a, ok := k.(Annotator); ok {
		return a.NewNotes
	}
	return func() Notes { return nil }
}
