package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// contents are what compresses in different ways.
func contents(t testing.TB) map[string][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 600<<10)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	// Matches of each distance from 1 to 40 and of lengths from 3 to 300, and far ones.
	var matches []byte
	for distance := 1; distance <= 40; distance++ {
		for length := 3; length < 300; length += 7 {
			matches = append(matches, noise[distance*1000:][:distance]...)
			for range length {
				matches = append(matches, matches[len(matches)-distance])
			}
		}
	}
	for i := range 200 {
		far := window - i
		matches = append(matches, noise[i*300:][:300]...)
		if len(matches) > far {
			matches = append(matches, matches[len(matches)-far:][:200]...)
		}
	}
	// Symbols of very different frequency have codes of 15 bits.
	skewed := make([]byte, 800<<10)
	for i := range skewed {
		skewed[i] = byte(min(random.ExpFloat64()*9, 255))
	}
	self, err := os.ReadFile("inflate.go")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"nothing": nil, "a byte": {'x'}, "text": bytes.Repeat(self, 25), "zeros": make([]byte, 1<<20),
		"noise": noise, "matches": matches, "skewed": skewed,
	}
}

// compressed are different encodings of content.
func compressed(t testing.TB, content []byte) map[string][]byte {
	all := map[string][]byte{}
	// Of the levels between, only how hard the encoder looks differs.
	for _, level := range []int{gzip.StatelessCompression, gzip.HuffmanOnly, gzip.DefaultCompression, gzip.NoCompression, gzip.BestSpeed, gzip.BestCompression} {
		var ours, std bytes.Buffer
		w, err := gzip.NewWriterLevel(&ours, level)
		if err != nil {
			t.Fatal(err)
		}
		write(t, w, content)
		all[fmt.Sprintf("klauspost %d", level)] = ours.Bytes()
		if level < stdgzip.HuffmanOnly {
			continue
		}
		if w, err := stdgzip.NewWriterLevel(&std, level); err != nil {
			t.Fatal(err)
		} else {
			write(t, w, content)
		}
		all[fmt.Sprintf("std %d", level)] = std.Bytes()
	}
	var flushed, members bytes.Buffer
	w := gzip.NewWriter(&flushed)
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 7001)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil { // a stored block of no bytes
			t.Fatal(err)
		}
		m := gzip.NewWriter(&members)
		write(t, m, rest[:n])
		rest = rest[n:]
	}
	write(t, w, nil)
	write(t, gzip.NewWriter(&members), nil)
	all["flushed"], all["members"] = flushed.Bytes(), members.Bytes()
	return all
}

func write(t testing.TB, w io.WriteCloser, content []byte) {
	t.Helper()
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(src io.Reader) ([]byte, error) {
	r, err := NewReader(src)
	if err != nil {
		return nil, err
	}
	// io.ReadAll hides what kind of end there was.
	var got []byte
	chunk := make([]byte, 10007)
	for err == nil {
		var n int
		n, err = r.Read(chunk)
		got = append(got, chunk[:n]...)
	}
	return got, err
}

// fill is read by Fill, with so many buffers in turn.
func fill(src io.Reader, buffers int) ([]byte, error) {
	r, err := NewReader(src)
	if err != nil {
		return nil, err
	}
	all := make([][]byte, buffers)
	for i := range all {
		all[i] = make([]byte, MinBuffer+i*1001)
	}
	var got []byte
	for i := 0; err == nil; i++ {
		// The buffer of before the last call is somebody else's by now.
		if buffers > 1 {
			clear(all[i%buffers])
		}
		var piece []byte
		piece, err = r.Fill(all[i%buffers])
		got = append(got, piece...)
	}
	return got, err
}

func TestReadsWhatOthersWrite(t *testing.T) {
	sources := map[string]func(io.Reader) io.Reader{
		"whole":    func(r io.Reader) io.Reader { return r },
		"halves":   iotest.HalfReader,
		"with EOF": iotest.DataErrReader,
		"bytes":    iotest.OneByteReader,
	}
	for name, content := range contents(t) {
		for encoding, data := range compressed(t, content) {
			for how, source := range sources {
				if how == "bytes" && len(data) > 8<<10 {
					continue // a call for each: it takes minutes, and shows no more
				}
				got, err := read(source(bytes.NewReader(data)))
				if err != io.EOF || !bytes.Equal(got, content) {
					t.Errorf("%s, %s, %s: got %d bytes of %d and %v", name, encoding, how, len(got), len(content), err)
				}
			}
			for buffers := range 3 {
				if got, err := fill(iotest.HalfReader(bytes.NewReader(data)), buffers+1); err != io.EOF || !bytes.Equal(got, content) {
					t.Errorf("%s, %s, %d buffers: got %d bytes of %d and %v", name, encoding, buffers+1, len(got), len(content), err)
				}
			}
		}
	}
}

func TestTruncated(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for name, content := range contents(t) {
		for encoding, data := range compressed(t, content[:min(len(content), 20000)]) {
			if encoding == "members" {
				continue // it may end between two
			}
			for _, n := range []int{1, 9, 10, 11, len(data) - 9, len(data) - 8, len(data) - 1, 1 + random.IntN(len(data)-1)} {
				got, err := read(bytes.NewReader(data[:n]))
				if err != io.ErrUnexpectedEOF || !bytes.HasPrefix(content, got) {
					t.Errorf("%s, %s, %d bytes of %d: got %d bytes and %v", name, encoding, n, len(data), len(got), err)
				}
				broken := errors.New("broken")
				if _, err := read(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken))); err != broken {
					t.Errorf("%s, %s, broken after %d bytes of %d: got %v", name, encoding, n, len(data), err)
				}
			}
		}
	}
}

// member is a gzip member of these blocks, with flags and what goes with them.
func member(flags byte, fields string, blocks, content string) string {
	trailer := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(content)))
	trailer = binary.LittleEndian.AppendUint32(trailer, uint32(len(content)))
	return "\x1f\x8b\x08" + string(flags) + "\x00\x00\x00\x00\x00\xff" + fields + blocks + string(trailer)
}

// bitString is the bytes of a stream of bits, which are written as the stream has them.
func bitString(s string) string {
	s = strings.ReplaceAll(s, " ", "")
	b := make([]byte, (len(s)+7)/8)
	for i, c := range s {
		b[i/8] |= byte(c-'0') << (i % 8)
	}
	return string(b)
}

const storedA = "\x01\x01\x00\xfe\xffA"

func TestHeaderAndTrailer(t *testing.T) {
	good := member(0, "", storedA, "A")
	sumOf := func(flags byte, fields string) string {
		sum := crc32.ChecksumIEEE([]byte("\x1f\x8b\x08" + string(rune(flags)) + "\x00\x00\x00\x00\x00\xff" + fields))
		return fields + string([]byte{byte(sum), byte(sum >> 8)})
	}
	fields := "\x03\x00abc" + "name\x00" + "comment\x00"
	for _, c := range []struct {
		name, data, want string
		err              error
	}{
		{"all flags", member(0x1f, sumOf(0x1f, fields), storedA, "A"), "A", io.EOF},
		{"wrong sum of the header", member(0x1f, fields+"\x01\x02", storedA, "A"), "", errHeader},
		{"reserved flag", member(0x20, "", storedA, "A"), "", errHeader},
		{"another method", strings.Replace(good, "\x08", "\x07", 1), "", errHeader},
		{"no magic", "hello, this is not gzip", "", errHeader},
		{"nothing", "", "", io.EOF},
		{"unending name", member(8, strings.Repeat("x", 1000), "", ""), "", errHeader},
		{"truncated name", member(8, "", "", "")[:10] + "nam", "", io.ErrUnexpectedEOF},
		{"truncated extra", member(4, "", "", "")[:10] + "\xff\xff123", "", io.ErrUnexpectedEOF},
		{"wrong content", member(0, "", storedA, "B"), "A", errChecksum},
		{"wrong size", good[:len(good)-1] + "\x01", "A", errChecksum},
		{"two members", good + good, "AA", io.EOF},
		{"garbage behind", good + "garbage and more", "A", errHeader},
		{"zeros behind", good + strings.Repeat("\x00", 512), "A", errHeader},
		{"a little garbage behind", good + "ga", "A", io.ErrUnexpectedEOF},
		{"match into the member before", good + member(0, "", bitString("1 10 0000001 00000 0000000"), ""), "A", errDistance},
	} {
		got, err := read(strings.NewReader(c.data))
		if err != c.err || string(got) != c.want {
			t.Errorf("%s: got %q and %v, want %q and %v", c.name, got, err, c.want, c.err)
		}
	}
}

// What is wrong is found in the midst of a stream and at its end, which different code reads.
func TestMalformed(t *testing.T) {
	for _, c := range []struct {
		name, blocks string
		err          error
	}{
		{"reserved type of block", bitString("1 11"), errBlock},
		{"size of a stored block", "\x01\x01\x00\xff\xffA", errBlock},
		{"length code 286", bitString("1 10 11000110"), errCode},
		{"distance code 30", bitString("1 10 00110000 0000001 11110"), errCode},
		{"distance to before", bitString("1 10 00110000 0000001 00001"), errDistance},
		{"287 codes", bitString("1 01 01111 00000 0000"), errCode},
		{"31 distances", bitString("1 01 00000 01111 0000"), errCode},
		{"oversubscribed lengths", bitString("1 01 00000 00000 0000 100 100 100 000"), errCode},
		{"incomplete lengths", bitString("1 01 00000 00000 0000 010 010 000 000"), errCode},
		{"no lengths", bitString("1 01 00000 00000 0000 000 000 000 000 0000000"), errCode},
		{"repeats what is not", bitString("1 01 00000 00000 0000 100 000 000 100 1 00"), errCode},
		{"a run over the end", bitString("1 01 00000 00000 0000 000 000 100 100" + strings.Repeat(" 1 1111111", 2)), errCode},
	} {
		for _, more := range []string{"", strings.Repeat("\x00", 4*inRound), strings.Repeat("\xff", 4*inRound)} {
			got, err := read(strings.NewReader(member(0, "", c.blocks+more, "")))
			if err != c.err && (more != "" || err != io.ErrUnexpectedEOF) {
				t.Errorf("%s, with %d bytes behind: got %q and %v, want %v", c.name, len(more), got, err, c.err)
			}
		}
	}
}

func TestSourceThatGivesNothing(t *testing.T) {
	if _, err := NewReader(iotest.ErrReader(nil)); err != io.ErrNoProgress {
		t.Errorf("got %v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var data bytes.Buffer
	write(t, gzip.NewWriter(&data), make([]byte, 64<<20))
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r, err := NewReader(bytes.NewReader(data.Bytes()))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != 64<<20 {
				b.Fatal(n, err)
			}
		}
	})
	if got := result.AllocedBytesPerOp(); got > 1<<20 {
		t.Errorf("%d bytes are allocated", got)
	}
}

// FuzzReader compares with other decoders what is accepted and what it is.
func FuzzReader(f *testing.F) {
	for _, content := range contents(f) {
		for _, data := range compressed(f, content[:min(len(content), 3000)]) {
			f.Add(data, false)
			f.Add(data[10:], true)
		}
	}
	f.Add([]byte(member(0x1f, "\x03\x00abcname\x00comment\x00\x00\x00", storedA, "A")), false)
	f.Fuzz(func(t *testing.T, data []byte, raw bool) {
		if raw {
			// Only blocks, in a member whose trailer is right: else most of what is mutated
			// were refused for its checksum.
			content, _ := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(data)), 1<<20))
			rest := bytes.NewReader(data)
			blocks := flate.NewReader(rest)
			if n, err := io.Copy(io.Discard, io.LimitReader(blocks, 1<<20)); err != nil || n == 1<<20 {
				content = nil
			} else {
				data = data[:len(data)-rest.Len()]
			}
			data = []byte(member(0, "", string(data), string(content)))
		}
		want, wantErr := readStd(data)
		got, err := read(io.LimitReader(bytes.NewReader(data), int64(len(data))))
		if (err == io.EOF) != (wantErr == nil) {
			t.Fatalf("got %v, compress/gzip says %v", err, wantErr)
		}
		if wantErr == nil && !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, compress/gzip has %d others", len(got), len(want))
		}
		if !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got) {
			t.Fatal("what comes before the error differs from what compress/gzip has")
		}
		slow, slowErr := read(iotest.OneByteReader(bytes.NewReader(data)))
		if slowErr != err || !bytes.Equal(slow, got) {
			t.Fatalf("read bytewise: %d bytes and %v; at once: %d bytes and %v", len(slow), slowErr, len(got), err)
		}
		if r, err := gzip.NewReader(bytes.NewReader(data)); err == nil && wantErr == nil {
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("klauspost has %d bytes and %v, compress/gzip %d bytes", len(got), err, len(want))
			}
		}
	})
}

func readStd(data []byte) ([]byte, error) {
	r, err := stdgzip.NewReader(bytes.NewReader(data))
	if err == io.EOF {
		return nil, nil // no member at all
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
