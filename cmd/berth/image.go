//go:build linux

package main

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/provisioner/store"
)

// imageForms says in the help of commands what an IMAGE is.
const imageForms = `IMAGE is one of

  [docker://]REF               of a registry: busybox, quay.io/a/b:1, c@sha256:...
  docker-archive:FILE[:REF]    of an archive of docker save
  oci:DIR[:REF]                of an OCI layout
  oci-archive:FILE[:REF]       of one in a tar
  appc:NAME[,LABEL=VALUE...]   an Appc image: appc:example.com/app,version=1.0`

// imagesOf turns what a person types into messages, for every platform.
func imagesOf(args []string) (images []*v1.Image, err error) {
	for _, arg := range args {
		img, err := engine.ParseImage(arg, "")
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
