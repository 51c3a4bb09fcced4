package backendtest

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/idmap"
	"berth/internal/mount"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
)

// theRange is that of the containers whose root filesystems are mapped.
var theRange = container.IDRange{Start: 3_000_000_000, Size: 65536}

// mappedBackend makes every root filesystem mapped.
type mappedBackend struct {
	backend.Backend
}

func (m mappedBackend) Provision(ctx context.Context, layers []backend.Layer, rootfs, dir string) error {
	return m.Backend.(backend.Mapper).ProvisionMapped(ctx, layers, rootfs, dir, theRange)
}

// mapped is the suite of a backend.Mapper: layers make the same tree, of owners that are
// seen from inside.
func (s *suite) mapped(t *testing.T) {
	m := &suite{Traits: s.Traits, dir: filepath.Join(s.dir, "mapped"), ids: theRange,
		factory: func() backend.Backend { return mappedBackend{s.factory()} }}
	checks := append(stackingChecks(),
		check{"what root of the container writes is root's on disk", writable, checkMappedWriting},
		check{"what the range does not have is nobody's", nil, checkUnmapped},
		check{"a file system that cannot be idmapped is not supported", needsMappable, checkUnmappable},
		check{"the backend proves by a probe that it can", nil, func(t *testing.T, m *suite) {
			p := m.place(t)
			if err := backend.ProbeMapped(context.Background(), s.factory(), p.backendDir(), p.backendDir()); err != nil {
				t.Error(err)
			}
		}},
	)
	for _, c := range checks {
		if c.applies == nil || c.applies(m.Traits) {
			t.Run(c.rule, func(t *testing.T) { c.run(t, m) })
		}
	}
}

// needsMappable: without an upper directory the file system of tars, which can be idmapped,
// is the only one there is.
func needsMappable(t Traits) bool { return t.Writable || !t.OfTars }

// checkMap has a backend that cannot map root filesystems say so by a probe.
func (s *suite) checkMap(t *testing.T) {
	if _, ok := s.factory().(backend.Mapper); ok {
		s.mapped(t)
		return
	}
	p := s.place(t)
	err := backend.ProbeMapped(context.Background(), p.backend, p.backendDir(), p.backendDir())
	if !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("the error is %v", err)
	}
}

func checkMappedWriting(t *testing.T, s *suite) {
	p := s.place(t)
	layers := p.layers(Tree{File("file", "a").owner(3, 4), Dir("d").perm(0o777)})
	unchanged := p.unchanged()
	rootfs, ephemeral := p.provisionAs("rootfs", layers...)
	err := idmap.AsOwner(theRange, func() error {
		return errors.Join(
			os.WriteFile(filepath.Join(rootfs, "d/new"), nil, 0o644),
			os.WriteFile(filepath.Join(rootfs, "file"), []byte("b"), 0),
			os.Lchown(filepath.Join(rootfs, "d"), int(theRange.OnHost(7)), int(theRange.OnHost(8))),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Tree{File("file", "b").owner(3, 4), Dir("d").perm(0o777).owner(7, 8), File("d/new", "").owner(0, 0)}
	for name, owner := range map[string][2]uint32{"file": {3, 4}, "d": {7, 8}, "d/new": {0, 0}} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(rootfs, name), &st); err != nil || st.Uid != theRange.OnHost(owner[0]) || st.Gid != theRange.OnHost(owner[1]) {
			t.Errorf("%s is of %d:%d, %v", name, st.Uid, st.Gid, err)
		}
	}
	unchanged()
	if err := mount.Detach(rootfs); err != nil { // what lies below it is what is on disk
		t.Fatal(err)
	}
	for _, n := range want {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(ephemeral[0], n.path), &st); err != nil || int(st.Uid) != n.uid || int(st.Gid) != n.gid {
			t.Errorf("on disk %s is of %d:%d, %v", n.path, st.Uid, st.Gid, err)
		}
	}
}

func checkUnmapped(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs := p.provision(p.layers(Tree{File("file", "a").perm(0o600).owner(70000, 0)})...)
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(rootfs, "file"), &st); err != nil || theRange.Inside(st.Uid) != 65534 {
		t.Errorf("it is of %d, %v", st.Uid, err)
	}
}

func checkUnmappable(t *testing.T, s *suite) {
	dir := mounttest.Dir(t)
	mounttest.Mount(t, "ramfs", dir, "")
	p := s.placeAt(t, filepath.Join(dir, "place"))
	rootfs := p.rootfs("refused")
	err := p.backend.Provision(context.Background(), []backend.Layer{{Path: p.layers(Tree{File("a", "a")})[0].Path}}, rootfs, p.backendDir())
	if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), " backend: ") || !strings.Contains(err.Error(), "--userns") {
		t.Errorf("the error is %v", err)
	}
	if _, err := p.backend.Destroy(context.Background(), rootfs, p.backendDir()); err != nil {
		t.Error(err)
	}
}

// inside returns a node as a container of the range sees it. The ids in access control
// lists are mapped as owners are.
func (n *Node) inside(ids container.IDRange) {
	n.uid, n.gid = int(ids.Inside(uint32(n.uid))), int(ids.Inside(uint32(n.gid)))
	id := func(id uint32) string { return string(binary.LittleEndian.AppendUint32(nil, id)) }
	for _, name := range []string{accessACL, defaultACL} {
		if acl, ok := n.xattrs[name]; ok && !ids.IsHost() {
			n.xattrs[name] = strings.ReplaceAll(acl, id(ids.OnHost(1234)), id(1234))
		}
	}
}
