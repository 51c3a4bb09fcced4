//go:build linux

package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/image"
)

// imageVolume reads IMAGE:DST[:ro|:rw][:subpath=DIR]. As an IMAGE has colons of its own,
// the last one before a slash begins DST, which is absolute; and so neither DST nor DIR
// can have one.
func imageVolume(value string) (*v1.Volume, error) {
	volume, err := parseImageVolume(value)
	if err != nil {
		return nil, fmt.Errorf("--image-volume %q: %w", value, err)
	}
	return volume, nil
}

func parseImageVolume(value string) (*v1.Volume, error) {
	volume := &v1.Volume{Mode: v1.Volume_RW.Enum()}
	rest, err := cutOptions(volume, value)
	if err != nil {
		return nil, err
	}
	at := strings.LastIndex(rest, ":/")
	if at <= 0 || slices.Contains(transports, rest[:at]) || strings.HasPrefix(rest[at:], "://") {
		return nil, fmt.Errorf("%w: it is IMAGE:DST[:ro][:subpath=DIR], and DST is an absolute path", container.ErrInvalid)
	}
	destination := rest[at+1:]
	if _, option, found := strings.Cut(destination, ":"); found {
		return nil, fmt.Errorf("%w: unknown option %q: known are ro, rw and subpath=DIR", container.ErrInvalid, option)
	}
	if slices.Contains(strings.Split(destination, "/"), "..") || path.Clean(destination) == "/" {
		return nil, fmt.Errorf("%w: DST is the path of a directory below /, without \"..\"", container.ErrInvalid)
	}
	if volume.Image, err = engine.ParseImage(rest[:at], ""); err != nil {
		return nil, err
	}
	volume.ContainerPath = proto.String(destination)
	return volume, nil
}

// transports begin the names of images that have a colon before a path, which is not
// that of DST.
var transports = []string{string(image.DockerArchive), string(image.OCI), string(image.OCIArchive), "appc"}

// cutOptions takes the options off the end.
func cutOptions(volume *v1.Volume, value string) (rest string, err error) {
	modes := 0
	for {
		at := strings.LastIndex(value, ":")
		if at < 0 {
			return value, nil
		}
		option := value[at+1:]
		dir, isSubpath := strings.CutPrefix(option, "subpath=")
		switch {
		case option == "ro" || option == "rw":
			volume.Mode = map[string]*v1.Volume_Mode{"ro": v1.Volume_RO.Enum(), "rw": v1.Volume_RW.Enum()}[option]
			modes++
		case isSubpath && volume.ImagePath != nil, modes > 1:
			return "", fmt.Errorf("%w: an option is there twice", container.ErrInvalid)
		case isSubpath && (dir == "" || slices.Contains(strings.Split(dir, "/"), "..")):
			return "", fmt.Errorf("%w: subpath=DIR is a path in the image, without \"..\"", container.ErrInvalid)
		case isSubpath:
			volume.ImagePath = proto.String(dir)
		default:
			return value, nil
		}
		value = value[:at]
	}
}

// imagesIn returns the images of a container: its own, and those of its volumes.
func imagesIn(info *v1.ContainerInfo) (images []*v1.Image) {
	if img := info.GetMesos().GetImage(); img != nil {
		images = append(images, img)
	}
	for _, v := range info.GetVolumes() {
		if v.Image != nil {
			images = append(images, v.Image)
		}
	}
	return images
}
