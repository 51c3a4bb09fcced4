package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
)

// inArchives finds the file with an image in a directory of archives. It is named after the
// image as Mesos has it, as the user wrote the name: alpine.tar, alpine:3.tar, a/b.tar,
// r.example.com/a:1.tar. The several spellings of one name are one image here, so any of them
// is good; the shortest that is there is taken.
func inArchives(dir string, n image.Name) (image.Reference, error) {
	if n.Digest != "" {
		return image.Reference{}, fmt.Errorf("%w: a directory of archives knows images by tag, not by digest", container.ErrNotSupported)
	}
	for _, spelling := range spellings(n) {
		path := filepath.Join(dir, spelling+".tar")
		switch _, err := disk.Lstat(path); {
		case err == nil:
			return image.Reference{Transport: image.DockerArchive, Path: path, Name: n}, nil
		case !errors.Is(err, fs.ErrNotExist):
			return image.Reference{}, err
		}
	}
	return image.Reference{}, fmt.Errorf("%w: there is no %s: save it there, or name a registry with --docker_registry",
		container.ErrNotFound, filepath.Join(dir, spellings(n)[0]+".tar"))
}

// spellings are the ways to write a name, the shortest first.
func spellings(n image.Name) (all []string) {
	repositories := []string{n.Registry + "/" + n.Repository}
	if n.Registry == image.DefaultRegistry {
		short, official := strings.CutPrefix(n.Repository, "library/")
		repositories = append([]string{n.Repository}, repositories...)
		if official {
			repositories = append([]string{short}, repositories...)
		}
	}
	for _, repository := range repositories {
		if n.Tag == image.DefaultTag {
			all = append(all, repository)
		}
		all = append(all, repository+":"+n.Tag)
	}
	return all
}
