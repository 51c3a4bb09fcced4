package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	imagevolume "berth/isolator/volume/image"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/store"
)

// ParseImage returns the message for an image as a person names it: [docker://]REF,
// docker-archive:FILE[:REF], oci:DIR[:REF], oci-archive:FILE[:REF] or appc:NAME[,LABEL=VALUE...];
// an empty platform is the host's. ErrInvalid, ErrNotSupported: the name.
func ParseImage(name, platform string) (*v1.Image, error) {
	reference, err := image.ParseReference(name)
	if err != nil {
		return nil, err
	}
	if reference.Path != "" { // whoever gets the message may be elsewhere
		if reference.Path, err = filepath.Abs(reference.Path); err != nil {
			return nil, err
		}
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

// ImageName is the name in an image message, whatever its type.
func ImageName(img *v1.Image) string {
	switch img.GetType() {
	case v1.Image_DOCKER:
		return img.GetDocker().GetName()
	case v1.Image_OCI:
		return img.GetOci().GetName()
	default:
		return img.GetAppc().GetName()
	}
}

func (i *Images) store(img *v1.Image) (store.Store, error) {
	s, ok := i.Stores[img.GetType()]
	if !ok {
		return nil, fmt.Errorf("image %s of type %s: %w: it is not among --image_providers", ImageName(img), img.GetType(), container.ErrNotSupported)
	}
	return s, nil
}

// Pull gets an image into its store and returns its record, and, unless it was there, how
// it came.
func (i *Images) Pull(ctx context.Context, img *v1.Image) (store.Record, *store.PullReport, error) {
	s, err := i.store(img)
	if err != nil {
		return store.Record{}, nil, err
	}
	found, err := s.Get(ctx, img, i.form(ctx))
	if err != nil {
		return store.Record{}, nil, err
	}
	return found.Record, found.Pull, found.Release()
}

// form is the form of layers that containers will need: that of the backend. Where none works,
// no container is made of them here, and any form does.
func (i *Images) form(ctx context.Context) layer.Form {
	_ = i.chooseBackend(ctx)
	return i.Provisioner.Form()
}

// Has reports whether an image is recorded. One whose record cannot be read is not.
func (i *Images) Has(ctx context.Context, img *v1.Image) (bool, error) {
	s, err := i.store(img)
	if err != nil {
		return false, err
	}
	reference, err := s.Reference(img)
	if err != nil {
		return false, err
	}
	recorded, err := s.List(ctx)
	_, err = store.Unreadable(err)
	return slices.ContainsFunc(recorded, func(rec store.Record) bool {
		return rec.Reference == reference && rec.Platform == img.GetPlatform()
	}), err
}

// List returns the recorded images of all stores. Beside an error because records cannot
// be read, it returns the others.
func (i *Images) List(ctx context.Context) ([]store.Record, error) {
	var all []store.Record
	var errs []error
	for _, s := range i.Stores {
		recorded, err := s.List(ctx)
		all, errs = append(all, recorded...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// provisionVolumes makes a root filesystem for each volume of a container and returns their
// paths.
func (i *Images) provisionVolumes(ctx context.Context, id container.ID, volumes []imagevolume.Volume, ids container.IDRange) ([]string, error) {
	var wanted []provisioner.Wanted
	for _, v := range volumes {
		wanted = append(wanted, provisioner.Wanted(v))
	}
	all, err := i.Provisioner.ProvisionAll(ctx, id, wanted, ids)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, rootfs := range all {
		paths = append(paths, rootfs.Path)
	}
	return paths, nil
}
