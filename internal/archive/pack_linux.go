package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Pack writes name of a directory, and all that is below it, as a tar in which it is called
// as. A link is copied, not followed. What disappears meanwhile is left out.
func Pack(ctx context.Context, w io.Writer, dir *os.Root, name, as string) error {
	p := &packer{ctx: ctx, tar: tar.NewWriter(w), dir: dir}
	if _, err := dir.Lstat(name); err != nil {
		return err
	}
	if err := p.add(name, as); err != nil {
		return err
	}
	return p.tar.Close()
}

type packer struct {
	ctx context.Context
	tar *tar.Writer
	dir *os.Root
}

// add adds a file and what is below it.
func (p *packer) add(name, as string) error {
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	// An O_PATH descriptor opens nothing: opening a device can have an effect, and a FIFO can
	// block. And what it is of does not change any more.
	place, err := p.dir.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer place.Close()
	info, err := place.Stat()
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case 0:
		return p.addFile(place, info, as)
	case fs.ModeDir:
		return p.addDir(place, info, name, as)
	case fs.ModeSymlink:
		return p.addLink(place, info, as)
	}
	return nil
}

func header(info fs.FileInfo, as string, kind byte) *tar.Header {
	return &tar.Header{Typeflag: kind, Name: as, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX}
}

func (p *packer) addFile(place *os.File, info fs.FileInfo, as string) error {
	file, err := reopen(place)
	if err != nil {
		return err
	}
	defer file.Close()
	h := header(info, as, tar.TypeReg)
	h.Size = info.Size()
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(file, h.Size))
	if err == nil && n < h.Size {
		err = fmt.Errorf("read %s: it became shorter meanwhile: %w", as, io.ErrUnexpectedEOF)
	}
	return err
}

func (p *packer) addDir(place *os.File, info fs.FileInfo, name, as string) error {
	dir, err := reopen(place)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := p.tar.WriteHeader(header(info, as+"/", tar.TypeDir)); err != nil {
		return err
	}
	if strings.Count(as, "/") > maxDepth {
		return fmt.Errorf("%.80s...: %w: directories lie in each other more than %d deep", as, container.ErrInvalid, maxDepth)
	}
	for {
		names, err := dir.Readdirnames(namesAtOnce)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, one := range names {
			if err := p.add(path.Join(name, one), path.Join(as, one)); err != nil {
				return err
			}
		}
	}
}

// The bounds on what a directory can make of the memory and the descriptors of who reads it.
const (
	maxDepth    = 200
	namesAtOnce = 1024
)

func (p *packer) addLink(place *os.File, info fs.FileInfo, as string) error {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(place.Fd()), "", target)
	if err != nil {
		return fmt.Errorf("read the link %s: %w", as, err)
	}
	h := header(info, as, tar.TypeSymlink)
	h.Linkname = string(target[:n])
	return p.tar.WriteHeader(h)
}

// reopen opens for reading what an O_PATH descriptor is of.
func reopen(place *os.File) (*os.File, error) {
	return os.Open("/proc/self/fd/" + strconv.Itoa(int(place.Fd())))
}
