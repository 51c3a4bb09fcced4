package appc

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strings"

	"berth/container"
)

// The extensions of an image's file and of that with its signature, {ext} in a template.
const (
	ImageExt     = "aci"
	SignatureExt = "aci.asc"
)

// Template says where images are: a URL or a path, with {name}, {version}, {os}, {arch} and
// {ext}, and with any other label of the request, for what is asked for.
type Template string

// Simple is the template of simple discovery below a prefix, and below a prefix only: the
// prefix itself has no variables.
const Simple Template = "{name}-{version}-{os}-{arch}.{ext}"

// Place returns where the image of a request is. What the request leaves open is the
// version "latest", and the system. ErrInvalid for a template with a variable of which
// nothing is known.
func (t Template) Place(r Request, system System, ext string) (string, error) {
	known := map[string]string{Version: DefaultVersion, OS: system.OS, Arch: system.Arch}
	for _, l := range r.Labels {
		known[l.Name] = cmp.Or(l.Value, known[l.Name])
	}
	known["name"], known["ext"] = r.Name, ext // whatever labels there are
	var unknown string
	place := regexp.MustCompile(`\{[^{}]*\}`).ReplaceAllStringFunc(string(t), func(variable string) string {
		value, ok := known[strings.Trim(variable, "{}")]
		if !ok {
			unknown = variable
		}
		return value
	})
	if unknown != "" {
		return "", fmt.Errorf("%w: the template %s has the variable %s, for which the request for %s has no label",
			container.ErrInvalid, quote(string(t)), quote(unknown), r)
	}
	return place, nil
}

// MaxPageSize bounds a page of the meta discovery.
const MaxPageSize = 1 << 20

// maxTemplates bounds those of a page, each of which is tried.
const maxTemplates = 16

// discoveryTag is the name of a meta tag with a prefix and a template.
const discoveryTag = "ac-discovery"

// Templates returns the templates that a page of the meta discovery has for an image: of
// the tags <meta name="ac-discovery" content="PREFIX TEMPLATE"> in its head, those whose
// prefix is the name or a whole part of its beginning. A template of something else than
// https is left out: no page may have files of this machine read, or lead out of encryption.
// Of many the first ones are returned.
func Templates(page []byte, name string) (templates []Template) {
	d := xml.NewDecoder(bytes.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	d.CharsetReader = func(_ string, input io.Reader) (io.Reader, error) { return input, nil } // tags are ASCII
	for {
		token, err := d.RawToken()
		if err != nil || len(templates) == maxTemplates { // the end, or what is no markup any more
			return templates
		}
		switch t := token.(type) {
		case xml.StartElement:
			if strings.EqualFold(t.Name.Local, "body") {
				return templates
			}
			if template, ok := templateIn(t, name); ok {
				templates = append(templates, template)
			}
		case xml.EndElement:
			if strings.EqualFold(t.Name.Local, "head") {
				return templates
			}
		}
	}
}

func templateIn(t xml.StartElement, name string) (Template, bool) {
	if !strings.EqualFold(t.Name.Local, "meta") || attribute(t, "name") != discoveryTag {
		return "", false
	}
	fields := strings.Fields(attribute(t, "content"))
	if len(fields) != 2 || !strings.HasPrefix(fields[1], "https://") {
		return "", false
	}
	prefix := strings.TrimSuffix(fields[0], "/")
	return Template(fields[1]), name == prefix || strings.HasPrefix(name, prefix+"/")
}

func attribute(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if strings.EqualFold(a.Name.Local, name) {
			return a.Value
		}
	}
	return ""
}
