package backendtest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/layer/erofs"
	"berth/provisioner/backend"
)

// WriteEROFS writes the tree in a new directory as a layer in the form EROFS, with the
// marks of overlayfs that Write makes. Sockets, which no tar has, are left out; what stands
// in the place of the tar has the contents of files only.
func (t Tree) WriteEROFS(tb testing.TB, dir string) backend.Layer {
	tb.Helper()
	w := erofsWriter{b: erofs.NewBuilder(), nodes: map[string]erofs.Node{".": erofs.Root}}
	var uuid [16]byte
	rand.Read(uuid[:])
	w.b.SetUUID(uuid)
	err := os.Mkdir(dir, 0o755)
	for _, n := range t.withRoot() {
		if err == nil && n.kind != unix.S_IFSOCK {
			err = w.add(n)
		}
	}
	var index bytes.Buffer
	if err == nil {
		err = w.b.Write(&index, int64(w.tar.Len()))
	}
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(dir, "tar"), w.tar.Bytes(), 0o600), os.WriteFile(filepath.Join(dir, "index"), index.Bytes(), 0o600))
	}
	if err != nil {
		tb.Fatalf("make the layer %s: %v", dir, err)
	}
	return t.layer(dir)
}

type erofsWriter struct {
	b     *erofs.Builder
	nodes map[string]erofs.Node
	tar   bytes.Buffer
}

func (w *erofsWriter) add(n Node) error {
	parent, name := w.nodes[filepath.Dir(n.path)], filepath.Base(n.path)
	attr := erofs.Attr{Mode: n.kind | n.mode, UID: uint32(n.uid), GID: uint32(n.gid), Sec: n.mtime.Sec, Nsec: uint32(n.mtime.Nsec), Rdev: n.rdev}
	switch {
	case n.kind == kindHardLink:
		w.nodes[n.path] = w.nodes[n.linkTo]
		return w.b.Link(parent, name, w.nodes[n.linkTo])
	case n.kind == kindWhiteout:
		_, err := w.b.Make(parent, name, erofs.Attr{Mode: unix.S_IFCHR})
		return errors.Join(err, w.b.AddXattr(parent, "trusted.overlay.origin", ""))
	case n.path == ".":
		if err := w.b.SetAttr(erofs.Root, attr); err != nil {
			return err
		}
	default:
		made, err := w.b.Make(parent, name, attr)
		if err != nil {
			return err
		}
		w.nodes[n.path] = made
	}
	node := w.nodes[n.path]
	for name, value := range n.xattrs {
		if err := w.b.AddXattr(node, name, value); err != nil {
			return err
		}
	}
	switch {
	case n.opaque:
		return w.b.AddXattr(node, "trusted.overlay.opaque", "y")
	case n.kind == unix.S_IFLNK:
		return w.b.SetTarget(node, n.content)
	case n.kind == unix.S_IFREG:
		return w.content(node, n)
	}
	return nil
}

// content appends what a file has to the tar. Between the pieces of a sparse file are holes.
func (w *erofsWriter) content(node erofs.Node, n Node) error {
	content := n.bytes()
	if n.data == nil {
		return w.b.SetContent(node, int64(len(content)), w.piece(content))
	}
	var extents []erofs.Extent
	at := 0
	hole := func(to int) {
		if to > at {
			extents = append(extents, erofs.Extent{Offset: -1, Length: int64(to - at)})
			at = to
		}
	}
	for _, d := range n.data {
		hole(max(at, d[0]/erofs.BlockSize*erofs.BlockSize))
		end := min((d[0]+d[1]+erofs.BlockSize-1)/erofs.BlockSize*erofs.BlockSize, n.size)
		extents = append(extents, w.piece(content[at:end]))
		at = end
	}
	hole(n.size)
	return w.b.SetContent(node, int64(n.size), extents...)
}

func (w *erofsWriter) piece(content string) erofs.Extent {
	e := erofs.Extent{Offset: int64(w.tar.Len()), Length: int64(len(content))}
	w.tar.WriteString(content)
	w.tar.Write(make([]byte, -len(content)&(erofs.BlockSize-1)))
	return e
}
