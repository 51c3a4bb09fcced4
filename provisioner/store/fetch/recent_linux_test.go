package fetch

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/container"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store/storetest"
)

// A record that was read is not read again, unless it has changed.
func TestRecordsAreReadAgainWhenTheyHaveChanged(t *testing.T) {
	testrig.RequireRoot(t)
	dir := testrig.TempDir(t)
	layers, err := layer.Open(filepath.Join(dir, "layers"), layer.DefaultLimits)
	must(err)
	lease, err := layers.Lease(t.Context())
	must(err)
	records, err := openRecords(filepath.Join(dir, "images"), newNotes(nil))
	must(err)
	rec := testRecord()
	k := Key{parsed(t, rec.Reference), rec.Platform}
	must(records.save(k, rec, lease))
	must(lease.Release())
	load := func() *record {
		t.Helper()
		rec, err := records.load(k)
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	path := records.path(k)
	rewrite := func(change func([]byte) []byte) {
		t.Helper()
		data, err := os.ReadFile(path)
		must(err)
		must(os.WriteFile(path, change(data), 0o600))
	}

	if rec := load(); rec == load() {
		t.Error("a record is kept whose file has changed a moment ago")
	}
	time.Sleep(settled)
	first := load()
	if load() != first {
		t.Error("a record was read again")
	}

	rewrite(func(d []byte) []byte { return d }) // with the same bytes
	if load() == first {
		t.Error("a record was not read again")
	}
	before, err := os.Stat(path)
	must(err)
	time.Sleep(settled)
	load()
	rewrite(func(d []byte) []byte { return bytes.Replace(d, []byte(`"sha256:`), []byte(`"sha257:`), 1) })
	must(os.Chtimes(path, before.ModTime(), before.ModTime()))
	_, err = records.load(k)
	storetest.WantError(t, err, container.ErrInvalid, path)
	must(os.Remove(path))
	_, err = records.load(k)
	storetest.WantError(t, err, container.ErrNotFound, "")
}
