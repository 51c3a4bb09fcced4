package image

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"berth/container"
	"berth/internal/strictjson"
)

func parseManifest(body []byte) error { _, err := ParseManifest("", body); return err }
func parseConfig(body []byte) error   { _, err := ParseConfig(body); return err }

// What is held of a document while it is read is bounded, whatever it has: these are as
// large as is allowed, and of what takes more memory than it has bytes.
func TestTheLargestDocumentsTakeLittleMemory(t *testing.T) {
	const most = 24 * MaxManifestSize // of all that was allocated, most of which is free again
	for _, c := range []struct {
		name  string
		parse func([]byte) error
		text  string
	}{
		{"descriptors", parseManifest, filled(`{"schemaVersion":2,"manifests":[`, `{"mediaType":"`+MediaTypeOCIIndex+`","digest":"`+digestA+`","size":1}`, `]}`)},
		{"layers", parseManifest, filled(`{"schemaVersion":2,"config":`+goodConfig+`,"layers":[`, goodLayer, `]}`)},
		{"annotations", parseManifest, `{"schemaVersion":2,"manifests":[],"annotations":{` + numbered(`"%d":""`) + `}}`},
		{"lists in lists", parseManifest, strings.Repeat("[", MaxManifestSize/2) + strings.Repeat("]", MaxManifestSize/2)},
		{"objects in objects", parseConfig, strings.Repeat(`{"a":`, MaxConfigSize/6) + "1" + strings.Repeat("}", MaxConfigSize/6)},
		{"labels", parseConfig, `{"config":{"Labels":{` + numbered(`"%d":""`) + `}}}`},
		{"escapes", parseConfig, `{"os":"` + strings.Repeat(`\u001b`, MaxConfigSize/6-10) + `"}`},
	} {
		body := []byte(c.text)
		if len(body) > MaxManifestSize || len(body) > MaxConfigSize {
			t.Errorf("%s: of %d bytes no parser looks at more than the length", c.name, len(body))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := c.parse(body)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > most {
			t.Errorf("%s: %d MiB for %d bytes, %.200v", c.name, took>>20, len(body), err)
		}
		if err != nil && (len(err.Error()) > 1000 || !errors.Is(err, container.ErrInvalid)) {
			t.Errorf("%s: %.200v", c.name, err)
		}
	}
}

// filled repeats a part up to the largest size of a document.
func filled(before, part, after string) string {
	n := (MaxManifestSize - len(before) - len(after)) / (len(part) + 1)
	return before + strings.Repeat(part+",", n-1) + part + after
}

// numbered is of as many members as an object may have.
func numbered(member string) string {
	members := make([]string, strictjson.MaxTokens/2-10)
	for i := range members {
		members[i] = fmt.Sprintf(member, i)
	}
	return strings.Join(members, ",")
}
