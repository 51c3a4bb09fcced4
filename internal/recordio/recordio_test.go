package recordio

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"berth/container"
)

func TestRecordsComeBackWhateverTheBordersOfChunks(t *testing.T) {
	records := [][]byte{[]byte("a"), {}, []byte("two\nlines"), bytes.Repeat([]byte{0xff}, 70000)}
	var stream []byte
	for _, r := range records {
		stream = Append(stream, r)
	}
	reader := NewReader(iotest.OneByteReader(bytes.NewReader(stream)), 70000)
	for i, want := range records {
		got, err := reader.Next()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("record %d: %d bytes, %v; want %d", i, len(got), err, len(want))
		}
	}
	if _, err := reader.Next(); err != io.EOF {
		t.Errorf("after the last one: %v", err)
	}
}

func TestStreamsThatAreNone(t *testing.T) {
	for _, c := range []struct{ name, stream, words string }{
		{"ends within the length", "12", "ends within"},
		{"ends within the record", "5\nabc", "ends within"},
		{"no digits", "\nabc", `length is ""`},
		{"a sign", "-1\na", "decimal digits"},
		{"a blank", " 1\na", "decimal digits"},
		{"hexadecimal", "0x1\na", "decimal digits"},
		{"endless digits", strings.Repeat("1", 100), "decimal digits"},
		{"a number that does not fit", "99999999999999999999\n", "length is"},
		{"longer than allowed", "11\nabcdefghijk", "at most 10"},
		{"a length that would be negative", "18446744073709551615\n", "at most 10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(strings.NewReader(c.stream+"1\nx"), 10)
			if strings.HasPrefix(c.name, "ends") {
				r = NewReader(strings.NewReader(c.stream), 10)
			}
			_, err := r.Next()
			if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("got %v; want invalid and %q", err, c.words)
			}
			if _, again := r.Next(); again != err {
				t.Errorf("then %v; want the same error", again)
			}
		})
	}
}

func TestAnErrorOfTheStreamIsPassedOn(t *testing.T) {
	broken := errors.New("broken")
	if _, err := NewReader(iotest.ErrReader(broken), 10).Next(); !errors.Is(err, broken) || errors.Is(err, container.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("1\na3\nbcd"))
	f.Add([]byte("99999999999999999999999"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream), 1000)
		var again []byte
		for {
			record, err := r.Next()
			if err != nil {
				if err == io.EOF && len(again) > len(stream) {
					t.Errorf("%d bytes became %d", len(stream), len(again))
				}
				return
			}
			if len(record) > 1000 {
				t.Fatalf("a record of %d bytes", len(record))
			}
			again = Append(again, record)
		}
	})
}
