package backend

import (
	"bytes"
	"crypto/rand"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/layer"
	"berth/layer/erofs"
)

// writeProbeErofs writes the layers of a probe in the form EROFS. What stands in the place of
// the tar has the content of the only file that has any.
func writeProbeErofs(dir string) ([]Layer, error) {
	base := erofs.NewBuilder()
	var file erofs.Node
	err := inOrder(
		func() error {
			outer, err := base.Make(erofs.Root, probeDirectory, erofs.Attr{Mode: unix.S_IFDIR | 0o755})
			if err == nil {
				_, err = base.Make(outer, probeDirectory, erofs.Attr{Mode: unix.S_IFDIR | 0o755})
			}
			return err
		},
		func() (err error) {
			file, err = base.Make(erofs.Root, probeFile, erofs.Attr{Mode: unix.S_IFREG | probeMode, UID: probeOwner, GID: probeOwner})
			return err
		},
		func() error {
			return base.SetContent(file, int64(len(probeContent)), erofs.Extent{Length: int64(len(probeContent))})
		},
		func() error { return base.Link(erofs.Root, probeLink, file) },
		func() error {
			link, err := base.Make(erofs.Root, probeSymlink, erofs.Attr{Mode: unix.S_IFLNK | 0o777})
			if err == nil {
				err = base.SetTarget(link, probeFile)
			}
			return err
		},
		func() error {
			_, err := base.Make(erofs.Root, probeHidden, erofs.Attr{Mode: unix.S_IFREG | 0o600})
			return err
		},
	)
	if err != nil {
		return nil, err
	}
	top := erofs.NewBuilder()
	_, err = top.Make(erofs.Root, probeHidden, erofs.Attr{Mode: unix.S_IFCHR})
	if err == nil {
		err = top.AddXattr(erofs.Root, "trusted.overlay.origin", "")
	}
	if err != nil {
		return nil, err
	}
	layers := []Layer{{Path: filepath.Join(dir, "base")}, {Path: filepath.Join(dir, "top"), Whiteouts: true}}
	for i, b := range []*erofs.Builder{base, top} {
		if err := writeErofs(b, layers[i].Path); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

func writeErofs(b *erofs.Builder, dir string) error {
	// Each of another name, or overlayfs complains in the log of the kernel.
	var uuid [16]byte
	rand.Read(uuid[:])
	b.SetUUID(uuid)
	data := make([]byte, erofs.BlockSize)
	copy(data, probeContent)
	var index bytes.Buffer
	return inOrder(
		func() error { return b.Write(&index, int64(len(data))) },
		func() error { return disk.Mkdir(dir, 0o755) },
		func() error { return disk.WriteFile(filepath.Join(dir, layer.TarFile), data, 0o600) },
		func() error { return disk.WriteFile(filepath.Join(dir, layer.IndexFile), index.Bytes(), 0o600) },
	)
}
