package fetcher

import (
	"bufio"
	"compress/bzip2"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	gzip "berth/internal/inflate"
	"berth/internal/xz"
)

// format is how a file is unpacked. Without open it is not compressed as a whole.
type format struct {
	suffix string
	kind   kind
	open   func(io.Reader) (io.Reader, error)
}

type kind int

const (
	plain kind = iota // no archive
	tarball
	zipped
	single // one compressed file
)

// formats are told by the names of files, longer suffixes first.
var formats = []format{
	{".tar.gz", tarball, gunzip}, {".tar.bz2", tarball, bunzip2}, {".tar.xz", tarball, unxz}, {".tar.zst", tarball, unzstd},
	{".tgz", tarball, gunzip}, {".tbz2", tarball, bunzip2}, {".txz", tarball, unxz},
	{".tar", tarball, nil}, {".zip", zipped, nil}, {".gz", single, gunzip},
}

// formatOf is the format of a file by its name. A name that is nothing but the suffix is
// no archive's.
func formatOf(name string) format {
	base := name[strings.LastIndexByte(name, '/')+1:]
	for _, f := range formats {
		if strings.HasSuffix(base, f.suffix) && base != f.suffix {
			return f
		}
	}
	return format{}
}

func gunzip(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }

func bunzip2(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }

func unxz(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }

// maxWindow bounds the memory of a zstd decoder, see RFC 8878, 3.1.1.1.2.
const maxWindow = 32 << 20

// unzstd decodes in the reading goroutine alone, so there is nothing to close.
func unzstd(r io.Reader) (io.Reader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return z, nil
}

// inflate returns the uncompressed content of r.
func (f format) inflate(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	if f.open == nil {
		return buffered, nil
	}
	return f.open(buffered)
}
