package layer

import (
	"archive/tar"
	"strings"
)

// IsSparse reports whether an entry is a sparse file, of GNU tar's own kind or in PAX records: the
// archive has only the pieces of it that are not holes.
func IsSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}
