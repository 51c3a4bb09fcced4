//go:build linux

package main

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/image"
	"berth/provisioner/store"
)

// imageOf turns what a person types into the message of the API.
func imageOf(arg, platform string) (*v1.Image, error) {
	reference, err := image.ParseReference(arg)
	if err != nil {
		return nil, err
	}
	img := &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String(reference.String())}}
	switch reference.Transport {
	case image.Appc:
		img = &v1.Image{Type: v1.Image_APPC.Enum(), Appc: &v1.Image_Appc{Name: proto.String(reference.String())}}
	case image.OCI, image.OCIArchive:
		img = &v1.Image{Type: v1.Image_OCI.Enum(), Oci: &v1.Image_Oci{Name: proto.String(reference.String())}}
	}
	if platform != "" {
		img.Platform = proto.String(platform)
	}
	return img, nil
}

// imagesOf is imageOf for several images, each for every platform.
func imagesOf(args []string) (images []*v1.Image, err error) {
	for _, arg := range args {
		img, err := imageOf(arg, "")
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// recordName tells the records of a name for several platforms apart.
func recordName(rec store.Record) string {
	if rec.Platform == "" {
		return rec.Reference
	}
	return rec.Reference + " for " + rec.Platform
}

// The values of --pull.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
)

// applyPullPolicy makes img be looked for as --pull says.
func applyPullPolicy(ctx context.Context, images *engine.Images, img *v1.Image, policy string) error {
	switch policy {
	case pullMissing:
		return nil
	case pullAlways:
		img.Cached = proto.Bool(false)
		return nil
	case pullNever:
		known, err := images.Has(ctx, img)
		if err == nil && !known {
			err = fmt.Errorf("image %s: %w in the store, and --pull=never: pull it first", engine.ImageName(img), container.ErrNotFound)
		}
		return err
	default:
		return fmt.Errorf("--pull %q: %w: known are %s, %s, %s", policy, container.ErrInvalid, pullAlways, pullMissing, pullNever)
	}
}
