package provisioner

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"berth/container"
)

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(`{"version": 1}`))
	f.Add([]byte(`{"version": 1, "rootfses": null}`))
	f.Add([]byte(`{"version": 2, "rootfses": 3}`))
	f.Add([]byte(`{"version": 1, "rootfses": {"x": {"backend": "copy", "image": "a", "layers": [null]}}}`))
	f.Add([]byte(`{"version": 1, "rootfses": {"x": {"layers": ["sha256:ab"]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err != nil {
			if !json.Valid(data) {
				t.Errorf("a torn record: %v", err)
			}
			return
		}
		rec.Rootfses["one more"] = Use{} // what record does
		text, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseRecord(text); err != nil || !reflect.DeepEqual(again, rec) {
			t.Errorf("read %+v, %v; written was %+v", again, err, rec)
		}
	})
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		id, ancestor string
		want         bool
	}{
		{"a", "a", true}, {"a.b", "a", true}, {"a.b.c", "a", true}, {"a.b.c", "a.b", true},
		{"a", "a.b", false}, {"ab", "a", false}, {"a.bc", "a.b", false}, {"b.a", "a", false},
	} {
		id, idErr := container.ParseID(c.id)
		ancestor, ancestorErr := container.ParseID(c.ancestor)
		if err := errors.Join(idErr, ancestorErr); err != nil {
			t.Fatal(err)
		}
		if got := within(id, ancestor); got != c.want {
			t.Errorf("%s within %s: %v", c.id, c.ancestor, got)
		}
	}
}
