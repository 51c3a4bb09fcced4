package layer

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// member is one entry of a tar. Its header is written byte by byte, so that a test
// can say what no proper writer would.
type member struct {
	name         string
	typ          byte
	mode         int64
	uid, gid     int64
	mtime        int64
	link         string
	major, minor int64
	body         string
	// claim is the size in the header where that is not the body's.
	claim *int64
	// pax holds records "key=value" for an extended header before this one.
	pax []string
	raw []byte // instead of all this
}

func file(name, body string) member {
	return member{name: name, typ: '0', mode: 0o644, mtime: 1e9, body: body}
}
func dir(name string) member {
	return member{name: name, typ: '5', mode: 0o755, mtime: 1e9}
}
func symlink(name, target string) member {
	return member{name: name, typ: '2', mode: 0o777, mtime: 1e9, link: target}
}
func hardLink(name, target string) member {
	return member{name: name, typ: '1', mode: 0o644, mtime: 1e9, link: target}
}
func device(name string, typ byte, major, minor int64) member {
	return member{name: name, typ: typ, mode: 0o600, mtime: 1e9, major: major, minor: minor}
}
func global(records ...string) member {
	return member{name: "pax_global_header", typ: 'g', body: paxRecords(records)}
}

func (m member) perm(mode int64) member      { m.mode = mode; return m }
func (m member) owner(uid, gid int64) member { m.uid, m.gid = uid, gid; return m }
func (m member) as(typ byte) member          { m.typ = typ; return m }
func (m member) claiming(size int64) member  { m.claim = &size; return m }
func (m member) date(seconds int64) member   { m.mtime = seconds; return m }
func (m member) with(records ...string) member {
	m.pax = append(append([]string(nil), m.pax...), records...)
	return m
}
func (m member) xattr(name, value string) member { return m.with(paxXattr + name + "=" + value) }

// archive writes a whole tar.
func archive(members ...member) []byte {
	return append(concat(members), make([]byte, 1024)...)
}

func concat(members []member) []byte {
	var b bytes.Buffer
	for _, m := range members {
		m.write(&b)
	}
	return b.Bytes()
}

func (m member) write(b *bytes.Buffer) {
	if m.raw != nil {
		b.Write(m.raw)
		return
	}
	records := m.pax
	if len(m.name) > 100 {
		records = append(records, "path="+m.name)
	}
	if len(m.link) > 100 {
		records = append(records, "linkpath="+m.link)
	}
	if len(records) > 0 {
		member{name: "PaxHeaders/x", typ: 'x', body: paxRecords(records)}.write(b)
	}
	b.Write(m.header())
	b.WriteString(m.body)
	b.Write(make([]byte, -len(m.body)&511))
}

func (m member) header() []byte {
	h := make([]byte, 512)
	copy(h[0:100], m.name)
	number(h[100:108], m.mode)
	number(h[108:116], m.uid)
	number(h[116:124], m.gid)
	size := int64(len(m.body))
	if m.claim != nil {
		size = *m.claim
	}
	number(h[124:136], size)
	number(h[136:148], m.mtime)
	h[156] = m.typ
	copy(h[157:257], m.link)
	copy(h[257:265], "ustar\x0000")
	number(h[329:337], m.major)
	number(h[337:345], m.minor)
	setChecksum(h)
	return h
}

func setChecksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h[:512] {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// number writes n in octal or, where that does not do, in GNU's base 256.
func number(field []byte, n int64) {
	octal := fmt.Sprintf("%0*o", len(field)-1, n)
	if n >= 0 && len(octal) < len(field) {
		copy(field, octal)
		return
	}
	for i := len(field) - 1; i >= 0; i-- {
		field[i] = byte(n)
		n >>= 8
	}
	field[0] |= 0x80
}

func paxRecords(records []string) string {
	var b strings.Builder
	for _, r := range records {
		size := len(r) + 3 // the blank, the newline, one digit
		for len(fmt.Sprint(size)) != size-len(r)-2 {
			size++
		}
		fmt.Fprintf(&b, "%d %s\n", size, r)
	}
	return b.String()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}
