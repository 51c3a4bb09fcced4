package storetest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"berth/image"
)

// Image is what a test publishes: the uncompressed tars of its layers, base first.
type Image [][]byte

// DiffIDs names the layers.
func (i Image) DiffIDs() []image.Digest {
	ids := make([]image.Digest, len(i))
	for n, l := range i {
		ids[n] = image.DigestOf(l)
	}
	return ids
}

// once leaves of each layer the upper place alone.
func (i Image) once() (kept Image) {
	for n, l := range i {
		if !slices.ContainsFunc(i[n+1:], func(upper []byte) bool { return bytes.Equal(l, upper) }) {
			kept = append(kept, l)
		}
	}
	return kept
}

// Layer returns a layer with a file of its name, and of size bytes that do not
// compress. The same name and size are the same layer.
func Layer(name string, size int) []byte {
	seed := [32]byte{}
	copy(seed[:], fmt.Sprint(name, size))
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(content) // never fails
	return Tar(File(name, string(content)))
}

// Entry is one of a tar.
type Entry struct {
	tar.Header
	Content string
}

// File is a regular file.
func File(name, content string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

// Tar packs entries. All are of one time, so that equal entries make equal tars.
func Tar(entries ...Entry) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		e.Size, e.ModTime = int64(len(e.Content)), time.Unix(1e9, 0)
		if err := w.WriteHeader(&e.Header); err != nil {
			panic(fmt.Sprintf("storetest: tar header of %s: %v", e.Name, err))
		}
		if _, err := w.Write([]byte(e.Content)); err != nil {
			panic(fmt.Sprintf("storetest: tar content of %s: %v", e.Name, err))
		}
	}
	if err := w.Close(); err != nil {
		panic(fmt.Sprintf("storetest: end of tar: %v", err))
	}
	return out.Bytes()
}
