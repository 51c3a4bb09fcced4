package docker

import (
	"bytes"
	"os"
	"testing"
	"time"

	"berth/container"
)

// A record that was read is not read again, unless it has changed.
func TestRecordsAreReadAgainWhenTheyHaveChanged(t *testing.T) {
	b := newBench(t)
	reg := newTestRegistry(t)
	reg.push(t, "app", "1", madeImage{})
	img := reg.ref("app:1")
	b.pull(t, img)
	k, err := parseKey(img)
	if err != nil {
		t.Fatal(err)
	}
	load := func() *record {
		t.Helper()
		rec, err := b.records.load(k)
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	if rec := load(); rec == load() {
		t.Error("a record is kept whose file has changed a moment ago")
	}
	time.Sleep(settled)
	first := load()
	if load() != first {
		t.Error("a record was read again")
	}

	path := b.spoil(t, k, func(d []byte) []byte { return d }) // written over, with the same bytes
	if load() == first {
		t.Error("a record was not read again")
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(settled)
	load()
	b.spoil(t, k, func(d []byte) []byte { return bytes.Replace(d, []byte(`"sha256:`), []byte(`"sha257:`), 1) })
	if err := os.Chtimes(path, before.ModTime(), before.ModTime()); err != nil {
		t.Fatal(err)
	}
	_, err = b.records.load(k)
	wantError(t, err, container.ErrInvalid)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err = b.records.load(k)
	wantError(t, err, container.ErrNotFound)
}
