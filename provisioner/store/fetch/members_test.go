package fetch

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"testing"

	"berth/container"
)

func TestArchiveIndexIsBounded(t *testing.T) {
	target := strings.Repeat("x", maxNames/32-10) // with its name, 32 of them fit
	for name, c := range map[string]struct {
		most   int
		header func(i int) tar.Header
	}{
		"members": {maxMembers, func(i int) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint(i)} }},
		"names": {32, func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprint(i), Linkname: target}
		}},
		"names of directories": {32, func(int) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: target + "/"} }},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Members{byName: make(map[string]Member)}
			for i := range c.most {
				hdr := c.header(i)
				if err := m.add(&hdr, 0); err != nil {
					t.Fatalf("of %d: %v", i+1, err)
				}
			}
			hdr := c.header(c.most)
			err := m.add(&hdr, 0)
			if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), "more than 100000 members, or names of more than 33554432 bytes") {
				t.Errorf("one more: %v", err)
			}
		})
	}
}
