package appc

import (
	"fmt"
	"slices"
	"strings"

	"berth/container"
)

// The labels that the discovery of images knows, and the version that is meant where none
// is stated.
const (
	Version = "version"
	OS      = "os"
	Arch    = "arch"

	DefaultVersion = "latest"
)

const (
	maxLabels = 64
	maxValue  = 255
)

// Label is one of an image.
type Label struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Request is what an image is asked for by. One that comes from NewRequest or ParseRequest
// is valid, and its labels are sorted.
type Request struct {
	Name   string
	Labels []Label
	ID     ID // "" when any image of the name and the labels will do
}

// NewRequest returns a valid request, or an error of class ErrInvalid.
func NewRequest(name string, labels []Label, id ID) (Request, error) {
	r := Request{Name: name, Labels: slices.Clone(labels), ID: id}
	slices.SortFunc(r.Labels, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	if err := r.check(); err != nil {
		return Request{}, fmt.Errorf("image %s: %w", quote(name), err)
	}
	return r, nil
}

func (r Request) check() error {
	if err := CheckIdentifier(r.Name); err != nil {
		return err
	}
	if err := checkLabels(r.Labels); err != nil {
		return err
	}
	for _, l := range r.Labels {
		// These would mean something else in a reference, in a URL or in a path.
		if l.Value == "" || len(l.Value) > maxValue || !isText(l.Value) || strings.ContainsAny(l.Value, `,@/\%?# `) {
			return fmt.Errorf("%w: the value %s of the label %s cannot be asked for: it is empty, longer than %d bytes or has one of , @ / \\ %% ? # and space",
				container.ErrInvalid, quote(l.Value), l.Name, maxValue)
		}
	}
	if r.ID == "" {
		return nil
	}
	_, err := ParseID(string(r.ID))
	return err
}

// checkLabels refuses labels that are not what the specification calls so.
func checkLabels(labels []Label) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("%w: it has %d labels, at most %d are allowed", container.ErrInvalid, len(labels), maxLabels)
	}
	seen := make(map[string]bool)
	for _, l := range labels {
		switch {
		case len(l.Name) > maxName || !isIdentifier(l.Name) || l.Name == "name":
			return fmt.Errorf("%w: a label cannot be called %s", container.ErrInvalid, quote(l.Name))
		case seen[l.Name]:
			return fmt.Errorf("%w: the label %s is there twice", container.ErrInvalid, l.Name)
		}
		seen[l.Name] = true
	}
	return nil
}

// ParseRequest reads NAME[,label=value...][@ID]. The error is of class ErrInvalid.
func ParseRequest(s string) (Request, error) {
	rest, id, hasID := strings.Cut(s, "@")
	if hasID && id == "" {
		return Request{}, fmt.Errorf("image %s: %w: the image id is empty", quote(s), container.ErrInvalid)
	}
	name, rest, more := strings.Cut(rest, ",")
	var labels []Label
	for more {
		var pair string
		pair, rest, more = strings.Cut(rest, ",")
		label, value, found := strings.Cut(pair, "=")
		if !found || len(labels) > maxLabels {
			return Request{}, fmt.Errorf("image %s: %w: %s is not label=value, or there are too many", quote(s), container.ErrInvalid, quote(pair))
		}
		labels = append(labels, Label{label, value})
	}
	return NewRequest(name, labels, ID(id))
}

// String is what ParseRequest reads as the same Request.
func (r Request) String() string {
	var s strings.Builder
	s.WriteString(r.Name)
	for _, l := range r.Labels {
		s.WriteString("," + l.Name + "=" + l.Value)
	}
	if r.ID != "" {
		s.WriteString("@" + r.ID.String())
	}
	return s.String()
}

// Value returns the value of a label, "" without it.
func (r Request) Value(name string) string { return valueOf(r.Labels, name) }

func valueOf(labels []Label, name string) string {
	at := slices.IndexFunc(labels, func(l Label) bool { return l.Name == name })
	if at < 0 {
		return ""
	}
	return labels[at].Value
}

// Accept returns why an image is not the one that was asked for by a client on the given
// system, or nil. An image that does not say what it is made for is made for any system.
func (r Request) Accept(m *Manifest, id ID, system System) error {
	if r.ID != "" && id != r.ID {
		return fmt.Errorf("%w: its image id is %s, not %s", container.ErrInvalid, id, r.ID)
	}
	if m.Name != r.Name {
		return fmt.Errorf("%w: its manifest calls it %s, not %s", container.ErrInvalid, m.Name, r.Name)
	}
	for _, l := range r.Labels {
		if got := valueOf(m.Labels, l.Name); got != l.Value {
			return fmt.Errorf("%w: its label %s is %s, not %s", container.ErrInvalid, l.Name, quote(got), quote(l.Value))
		}
	}
	for _, l := range system.labels() {
		if got := valueOf(m.Labels, l.Name); got != "" && got != l.Value && r.Value(l.Name) == "" {
			return fmt.Errorf("%w: it is for the %s %s, not for %s", container.ErrNotFound, l.Name, quote(got), l.Value)
		}
	}
	return nil
}
