package layer

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"berth/image"
)

// prose is n bytes that compress like those of a usual image, to about a third.
func prose(n int) string {
	random := rand.New(rand.NewPCG(3, 4))
	words := make([]string, 4000)
	for i := range words {
		words[i] = string(pseudoRandom(3000)[random.IntN(2900):][:2+random.IntN(9)])
	}
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(words[random.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()[:n]
}

// manyFiles is a layer of 15 000 files in 1 500 directories, of 110 MB.
var manyFiles = sync.OnceValue(func() []byte {
	random, text := rand.New(rand.NewPCG(1, 2)), prose(1<<20)
	members := []member{dir("./")}
	for d := range 1500 {
		members = append(members, dir(fmt.Sprintf("./usr/share/package%d/lib", d)))
		for f := range 10 {
			size := int(random.ExpFloat64() * 7000)
			members = append(members, file(fmt.Sprintf("./usr/share/package%d/lib/module_%d.py", d, f), text[:min(size, len(text))]))
		}
	}
	return archive(members...)
})

var oneFile = sync.OnceValue(func() []byte { return archive(file("usr/bin/large", prose(200<<20))) })

// benchStore is on an ext4 with a journal: without one, ext4 passes over each inode
// that was freed in the last minutes, and what is measured is how long ago the
// iteration before was.
func benchStore(b *testing.B) *Store {
	needRoot(b)
	return openStore(b, filepath.Join(mountNew(b, "ext4", "8G"), "store"), DefaultLimits)
}

func BenchmarkUnpack(b *testing.B) {
	for _, c := range []struct {
		name    string
		tarball func() []byte
	}{{"15000Files", manyFiles}, {"200MB", oneFile}} {
		blob := gzipped(b, c.tarball())
		for _, form := range forms {
			b.Run(c.name+"/"+string(form), func(b *testing.B) {
				s := benchStore(b)
				b.SetBytes(int64(len(c.tarball())))
				b.ReportAllocs()
				for b.Loop() {
					l := newLease(b, s)
					if _, err := l.Unpack(context.Background(), form, "", bytes.NewReader(blob)); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					release(b, l)
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkCommit includes what BenchmarkUnpack leaves out: to wait for the disk.
func BenchmarkCommit(b *testing.B) {
	blob := manyFiles()
	for _, form := range forms {
		b.Run(string(form), func(b *testing.B) {
			s := benchStore(b)
			for b.Loop() {
				b.StopTimer()
				l := newLease(b, s)
				if _, err := l.Unpack(context.Background(), form, "", bytes.NewReader(blob)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := l.Commit(context.Background()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				release(b, l)
				sweep(b, s)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	s := benchStore(b)
	tarball := manyFiles()
	addLayer(b, s, tarball)
	b.SetBytes(int64(len(tarball)))
	for b.Loop() {
		wantClean(b, s, image.DigestOf(tarball))
	}
}

// BenchmarkFileSum is what the checksum of contents costs by itself.
func BenchmarkFileSum(b *testing.B) {
	data := []byte(prose(1 << 20))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		crc64.Checksum(data, fileSum)
	}
}
