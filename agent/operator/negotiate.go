package operator

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// media is a form of a body.
type media string

// The forms that are spoken. A recordIO body consists of records of one of the others.
const (
	jsonMedia     media = "application/json"
	protobufMedia media = "application/x-protobuf"
	recordMedia   media = "application/recordio"
)

// spoken is what is spoken in an exchange.
type spoken struct {
	content media // of the request: JSON or protobuf, also of its records
	records bool  // the request is a stream of records
	accept  media // of the answer: JSON or protobuf, also of its records
	// framed: the answer is asked for as recordIO. Streams are records in any case.
	framed bool
}

// failure is an answer that is not a success.
type failure struct {
	error // that it tells of
	code  int
	// exit is what a command-line tool exits with for it; 0: nothing in particular.
	exit int
}

// Unwrap makes it of the class of its error.
func (f *failure) Unwrap() error { return f.error }

func failed(code int, format string, args ...any) *failure {
	return &failure{error: fmt.Errorf(format, args...), code: code}
}

// negotiate finds out what is spoken, by the headers alone.
func negotiate(r *http.Request) (s spoken, err error) {
	if r.Method != http.MethodPost {
		return s, failed(http.StatusMethodNotAllowed, "the method is %s: a call is a POST", r.Method)
	}
	if s.content, s.records, err = contentOf(r.Header); err != nil {
		return s, err
	}
	s.accept, s.framed, err = acceptOf(r.Header)
	return s, err
}

func contentOf(h http.Header) (content media, records bool, err error) {
	header := h.Get("Content-Type")
	if header == "" {
		return "", false, failed(http.StatusBadRequest, "Expecting 'Content-Type' to be present")
	}
	message := h.Get("Message-Content-Type")
	switch content = mediaOf(header); content {
	case jsonMedia, protobufMedia:
		if message != "" {
			return "", false, failed(http.StatusUnsupportedMediaType, "Expecting 'Message-Content-Type' to be not set for the content type %s", content)
		}
		return content, false, nil
	case recordMedia:
		if message == "" {
			return "", false, failed(http.StatusBadRequest, "Expecting 'Message-Content-Type' to be set for the content type %s", recordMedia)
		}
		if content = mediaOf(message); content == jsonMedia || content == protobufMedia {
			return content, true, nil
		}
		return "", false, failed(http.StatusUnsupportedMediaType, "Expecting 'Message-Content-Type' of %s or %s", jsonMedia, protobufMedia)
	}
	return "", false, failed(http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of %s, %s or %s", jsonMedia, protobufMedia, recordMedia)
}

func mediaOf(header string) media {
	name, _, err := mime.ParseMediaType(header)
	if err != nil {
		return ""
	}
	return media(name)
}

func acceptOf(h http.Header) (accept media, framed bool, err error) {
	switch accept = firstAccepted(h.Values("Accept"), jsonMedia, protobufMedia, recordMedia); accept {
	case "":
		return "", false, failed(http.StatusNotAcceptable, "Expecting 'Accept' to allow %s, %s or %s", jsonMedia, protobufMedia, recordMedia)
	case recordMedia:
		framed = true
		if accept = firstAccepted(h.Values("Message-Accept"), jsonMedia, protobufMedia); accept == "" {
			return "", false, failed(http.StatusNotAcceptable, "Expecting 'Message-Accept' to allow %s or %s", jsonMedia, protobufMedia)
		}
	default:
		if h.Get("Message-Accept") != "" {
			return "", false, failed(http.StatusNotAcceptable, "Expecting 'Message-Accept' to be not set unless 'Accept' allows %s alone", recordMedia)
		}
	}
	return accept, framed, nil
}

// firstAccepted returns the first of the offers that an Accept header allows (RFC 9110,
// section 12.5.1); without a header that is the first one, and "" is none. Preferences of
// the client among the allowed ones do not count, as in Mesos.
func firstAccepted(headers []string, offers ...media) media {
	ranges := strings.FieldsFunc(strings.Join(headers, ","), func(r rune) bool { return r == ',' })
	if len(ranges) == 0 {
		return offers[0]
	}
	for _, offer := range offers {
		if accepts(ranges, offer) {
			return offer
		}
	}
	return ""
}

// accepts goes by the most specific range that an offer lies in.
func accepts(ranges []string, offer media) (accepted bool) {
	specific := -1
	for _, text := range ranges {
		name, params, err := mime.ParseMediaType(text)
		if err != nil {
			continue
		}
		at := -1
		group, _, _ := strings.Cut(string(offer), "/")
		switch name {
		case "*/*":
			at = 0
		case group + "/*":
			at = 1
		case string(offer):
			at = 2
		}
		if at > specific {
			specific = at
			quality, err := strconv.ParseFloat(params["q"], 64)
			accepted = err != nil || quality > 0
		}
	}
	return accepted
}
