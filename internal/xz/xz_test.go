package xz

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// compress runs xz, whose absence is an error: what it writes is what is read.
func compress(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz: %v", err)
	}
	return out
}

func read(data []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func content() []byte {
	data := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data[:100_000]) // never fails
	return data
}

func TestWhatXzWrites(t *testing.T) {
	data := content()
	for _, args := range [][]string{nil, {"-0"}, {"-9"}, {"--check=none"}, {"--check=crc32"}, {"--check=sha256"}, {"--block-size=10000"}} {
		got, err := read(compress(t, data, args...))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%q: %d bytes, %v", args, len(got), err)
		}
	}
	one := compress(t, data)
	two := append(append(append([]byte{}, one...), make([]byte, 8)...), one...)
	if got, err := read(two); err != nil || !bytes.Equal(got, append(data, data...)) {
		t.Errorf("two streams: %d bytes, %v", len(got), err)
	}
	if got, err := read(compress(t, nil)); err != nil || len(got) > 0 {
		t.Errorf("nothing: %d bytes, %v", len(got), err)
	}
}

func TestWhatIsDamagedIsFound(t *testing.T) {
	data := []byte(strings.Repeat("content ", 100))
	whole := compress(t, data)
	for at := range whole {
		changed := bytes.Clone(whole)
		changed[at] ^= 0x10
		// A size that says too much changes nothing.
		if got, err := read(changed); err == nil && !bytes.Equal(got, data) {
			t.Errorf("byte %d of %d changed: no error", at, len(whole))
		}
		if _, err := read(whole[:at]); err == nil || err == io.EOF {
			t.Errorf("cut after byte %d: %v", at, err)
		}
	}
}

func TestAHugeDictionaryIsRefused(t *testing.T) {
	data := compress(t, []byte("x"))
	// The header of the block begins after the 12 bytes of the stream's.
	header := data[12 : 12+(int(data[12])+1)*4]
	at := bytes.Index(header, []byte{0x21, 1})
	header[at+2] = 40 // 4 GiB
	end := len(header) - 4
	binary.LittleEndian.PutUint32(header[end:], crc32.ChecksumIEEE(header[:end]))
	if _, err := read(data); err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("%v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(compress(f, []byte("content")))
	f.Add(compress(f, []byte(strings.Repeat("content ", 100)), "--block-size=100", "--check=sha256"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // no panic, no end of memory
		}
	})
}
