package testrig

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
)

// model is what an image's layers say, applied in memory by the rules of the
// OCI image specification ("Applying Changesets") and nothing else. The tests
// hold the oracle against it, so that each exception which the rig makes for
// umoci is one that umoci needs.
type model map[string]*modelInode

// modelInode is shared by the names of a hard link; its Path is not used.
type modelInode struct{ Entry }

func applyImage(t *testing.T, image pulledImage) []Entry {
	t.Helper()
	m := model{}
	for i, layer := range image.layers {
		if err := m.apply(layer); err != nil {
			t.Fatalf("apply layer %d to the model: %v", i+1, err)
		}
	}
	return m.manifest()
}

type pulledImage struct {
	v1.Image
	layers []pulledLayer
}

// pulledLayer is a layer, and what it has in it, which is read once: with the race
// detector, inflating takes long.
type pulledLayer struct {
	v1.Layer
	members func() ([]member, error)
}

// member is a header of a tar, and of its content the digest.
type member struct {
	tar.Header
	digest string
}

func pullImage(t *testing.T, reg *RegistryServer, ref string) pulledImage {
	t.Helper()
	r, err := name.ParseReference(strings.Replace(ref, reg.Host(), reg.Direct(), 1), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	pulled := pulledImage{Image: image}
	for _, layer := range layers {
		pulled.layers = append(pulled.layers, pulledLayer{layer, sync.OnceValues(func() ([]member, error) { return readMembers(layer) })})
	}
	return pulled
}

func readMembers(layer v1.Layer) (members []member, err error) {
	stream, err := layer.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		members = append(members, member{*h, hex.EncodeToString(sum.Sum(nil))})
	}
}

// apply applies one layer. Whiteouts hide what lower layers brought, so they
// are applied first, in a pass of their own.
func (m model) apply(layer pulledLayer) error {
	members, err := layer.members()
	if err != nil {
		return err
	}
	for _, h := range members {
		dir, base := path.Split(path.Clean(h.Name))
		if base == ".wh..wh..opq" {
			m.removeBelow(path.Clean(dir))
		} else if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
			m.remove(path.Join(dir, hidden))
		}
	}
	for _, h := range members {
		if strings.HasPrefix(path.Base(h.Name), ".wh.") {
			continue
		}
		if err := m.add(h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return nil
}

func (m model) remove(p string) {
	old := m[p]
	delete(m, p)
	if old != nil && old.Type == unix.S_IFDIR {
		m.removeBelow(p)
	}
}

func (m model) removeBelow(p string) {
	for other := range m {
		if strings.HasPrefix(other, p+"/") {
			delete(m, other)
		}
	}
}

func (m model) add(h member) error {
	p := path.Clean(h.Name)
	if h.Typeflag == tar.TypeLink {
		target, ok := m[path.Clean(h.Linkname)]
		if !ok {
			return fmt.Errorf("hard link to %s, which is not there", h.Linkname)
		}
		m.remove(p)
		m[p] = target
		return nil
	}
	e := Entry{UID: uint32(h.Uid), GID: uint32(h.Gid), Mode: uint32(h.Mode) & 0o7777, MTime: h.ModTime.UTC()}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Type, e.Size, e.Digest = unix.S_IFREG, h.Size, h.digest
	case tar.TypeDir:
		e.Type = unix.S_IFDIR
	case tar.TypeSymlink:
		e.Type, e.Target, e.Mode = unix.S_IFLNK, h.Linkname, 0o777
	case tar.TypeFifo:
		e.Type = unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		e.Type, e.Rdev = unix.S_IFCHR, fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		if h.Typeflag == tar.TypeBlock {
			e.Type = unix.S_IFBLK
		}
	default:
		return fmt.Errorf("tar type %q", h.Typeflag)
	}
	for record, value := range h.PAXRecords {
		if attribute, ok := strings.CutPrefix(record, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[attribute] = value
		}
	}
	if old := m[p]; old == nil || old.Type != unix.S_IFDIR || e.Type != unix.S_IFDIR {
		m.remove(p)
	}
	m[p] = &modelInode{e}
	return nil
}

func (m model) manifest() []Entry {
	names := map[*modelInode][]string{}
	for p, inode := range m {
		names[inode] = append(names[inode], p)
	}
	var entries []Entry
	for inode, paths := range names {
		for _, p := range paths {
			e := inode.Entry
			e.Path, e.First = p, paths[0]
			if e.Type != unix.S_IFDIR {
				e.Links = uint64(len(paths))
			}
			entries = append(entries, e)
		}
	}
	sortEntries(entries)
	return entries
}
