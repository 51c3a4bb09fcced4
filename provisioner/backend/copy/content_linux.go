package copy

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// file is a regular file, and the empty one that is to become the same.
type file struct {
	from, to int
	st       *unix.Stat_t // of from
}

// copyContent makes to the same as from: shared blocks where the file system can
// (FICLONE), else its data regions, with the holes between them.
func (f file) copyContent(ctx context.Context, buffer []byte) error {
	if f.st.Size == 0 {
		return nil
	}
	if err := disk.IoctlFileClone(f.to, f.from); err == nil {
		return nil
	}
	dense := f.st.Blocks*512 >= f.st.Size
	if dense && f.st.Size <= int64(len(buffer)) {
		return f.copyByHand(0, f.st.Size, buffer)
	}
	if err := disk.Ftruncate(f.to, f.st.Size); err != nil {
		return err
	}
	for offset := int64(0); offset < f.st.Size; {
		start, err := disk.Seek(f.from, offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := disk.Seek(f.from, start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := f.copyRange(ctx, start, end, buffer); err != nil {
			return err
		}
		offset = end
	}
	return nil
}

// chunk is how much is copied between two looks at the context.
const chunk = 16 << 20

// copyRange copies the bytes from offset to end inside the kernel, or by hand where the
// file system cannot.
func (f file) copyRange(ctx context.Context, offset, end int64, buffer []byte) error {
	for offset < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := min(end, offset+chunk)
		in, out := offset, offset
		// The call moves both offsets, also when it copies less than it should.
		n, err := disk.CopyFileRange(f.from, &in, f.to, &out, int(part-offset), 0)
		if err != nil || n == 0 {
			if err := f.copyByHand(offset, part, buffer); err != nil {
				return err
			}
			in = part
		}
		offset = in
	}
	return nil
}

func (f file) copyByHand(offset, end int64, buffer []byte) error {
	for offset < end {
		n, err := disk.Pread(f.from, buffer[:min(end-offset, int64(len(buffer)))], offset)
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the layer's file became shorter while it was copied")
		}
		for data := buffer[:n]; len(data) > 0; {
			m, err := disk.Pwrite(f.to, data, offset)
			if err != nil {
				return err
			}
			data, offset = data[m:], offset+int64(m)
		}
	}
	return nil
}
