package image

import (
	"errors"
	"strings"
	"testing"

	"berth/container"
)

func TestCheckLayout(t *testing.T) {
	for mark, class := range map[string]error{
		string(LayoutMark()): nil,
		` { "imageLayoutVersion" : "1.0.0", "more": [1] }`: nil,
		``:                                  container.ErrInvalid,
		`{}`:                                container.ErrInvalid,
		`[]`:                                container.ErrInvalid,
		`{"imageLayoutVersion":1}`:          container.ErrInvalid,
		`{"imageLayoutVersion":"1.0.0"} {}`: container.ErrInvalid,
		`{"imageLayoutVersion":"1.0.0","ImageLayoutVersion":1}`: container.ErrInvalid,
		`{"imageLayoutVersion":"2.0.0"}`:                        container.ErrNotSupported,
		strings.Repeat(" ", 5000) + `{}`:                        container.ErrInvalid,
	} {
		if err := CheckLayout([]byte(mark)); !errors.Is(err, class) {
			t.Errorf("%.60q: %v, want %v", mark, err, class)
		}
	}
}

func FuzzCheckLayout(f *testing.F) {
	f.Add(LayoutMark())
	f.Add([]byte(`{"imageLayoutVersion":"2"}`))
	f.Add([]byte(`{"imageLayoutVersion":"1.0.0","x":{"x":{}}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, mark []byte) {
		if err := CheckLayout(mark); err == nil && !strings.Contains(string(mark), "1.0.0") && !strings.Contains(string(mark), `\u`) {
			t.Errorf("accepted %q", mark)
		}
	})
}
