package backendtest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/image"
	"berth/layer"
	"berth/provisioner/backend"
)

// checkStore: layers as the layer store unpacks and checks them.
func checkStore(t *testing.T, s *suite) {
	p := s.place(t)
	store, err := layer.Open(filepath.Join(p.dir, "layers", "store"), layer.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	trees := written
	if s.MaxLayers == 1 {
		trees = []Tree{append(written[0], written[1][1:]...)}
	}
	form := p.backend.Form()
	ids, layers := unpack(t, store, form, trees)
	p.shows(p.provision(layers...), stacked(trees...))
	p.destroy(p.rootfs("rootfs"), true)
	for i, w := range writings {
		rootfs := p.rootfs(fmt.Sprint(i))
		if err := p.backend.Provision(context.Background(), layers, rootfs, p.backendDir()); err != nil {
			t.Fatal(err)
		}
		if err := w.do(rootfs); err != nil && s.Writable {
			t.Errorf("%s: %v", w.what, err)
		}
		p.destroy(rootfs, true)
	}
	for i, of := range stackings {
		if s.stacks(of.layers) {
			_, layers := unpack(t, store, form, of.layers)
			rootfs, _ := p.provisionAs(fmt.Sprint("stack-", i), layers...)
			p.shows(rootfs, stacked(of.layers...))
			p.destroy(rootfs, true)
		}
	}
	for i, id := range ids {
		if problems, err := store.Check(context.Background(), id, form); err != nil || len(problems) > 0 {
			t.Errorf("layer %d: %v, %v", i, problems, err)
		}
	}
}

// unpack puts the trees into a layer store.
func unpack(t *testing.T, store *layer.Store, form layer.Form, trees []Tree) (ids []image.Digest, layers []backend.Layer) {
	t.Helper()
	lease, err := store.Lease(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	for _, tree := range trees {
		info, err := lease.Unpack(context.Background(), form, "", bytes.NewReader(tree.tar(t)))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.DiffID)
		l := backend.Layer{Path: store.Path(info.DiffID, form), Whiteouts: info.Whiteouts > 0}
		for _, name := range info.Implied {
			l.Implied = append(l.Implied, string(name))
		}
		layers = append(layers, l)
	}
	if err := lease.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	return ids, layers
}

var tarTypes = map[uint32]byte{
	unix.S_IFDIR: tar.TypeDir, unix.S_IFREG: tar.TypeReg, unix.S_IFLNK: tar.TypeSymlink, unix.S_IFIFO: tar.TypeFifo,
	unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock,
	kindHardLink: tar.TypeLink, kindWhiteout: tar.TypeReg,
}

// tar returns the tree as the tar of a layer.
func (t Tree) tar(tb testing.TB) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range t.withRoot() {
		if n.opaque {
			if err := w.WriteHeader(&tar.Header{Name: filepath.Join(n.path, ".wh..wh..opq"), Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
				tb.Fatal(err)
			}
		}
		if n.implied || n.kind == unix.S_IFSOCK { // no tar has sockets
			continue
		}
		h := &tar.Header{Format: tar.FormatPAX, Name: n.path, Typeflag: tarTypes[n.kind], Mode: int64(n.mode), Uid: n.uid, Gid: n.gid,
			ModTime: time.Unix(n.mtime.Unix()), PAXRecords: make(map[string]string)}
		for name, value := range n.xattrs {
			h.PAXRecords["SCHILY.xattr."+name] = value
		}
		switch n.kind {
		case unix.S_IFLNK:
			h.Linkname = n.content
		case kindHardLink:
			h.Linkname = n.linkTo
		case kindWhiteout:
			h.Name = filepath.Join(filepath.Dir(n.path), ".wh."+filepath.Base(n.path))
		case unix.S_IFCHR, unix.S_IFBLK:
			h.Devmajor, h.Devminor = int64(unix.Major(n.rdev)), int64(unix.Minor(n.rdev))
		case unix.S_IFREG:
			h.Size = int64(len(n.bytes()))
		}
		err := w.WriteHeader(h)
		if err == nil && n.kind == unix.S_IFREG {
			_, err = w.Write([]byte(n.bytes()))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}
