package layout

import (
	"fmt"
	"slices"

	"berth/container"
	"berth/image"
)

// Choose returns the entry of a layout's index that ref names, or the only one for an
// empty ref. Of several with one name, that for the platform counts. ErrNotFound: there is
// none; ErrInvalid: there are several, and ref is empty.
func Choose(index *image.Index, ref string, want image.Platform) (image.Descriptor, error) {
	named := index.Manifests
	if ref != "" {
		named = slices.DeleteFunc(slices.Clone(named), func(d image.Descriptor) bool { return d.Annotations[image.RefNameAnnotation] != ref })
	}
	switch {
	case len(named) == 1:
		return named[0], nil
	case ref == "":
		return image.Descriptor{}, fmt.Errorf("%w: the layout does not have exactly one image; name one as oci:DIR:REF or oci-archive:FILE:REF; %s",
			container.ErrInvalid, offered(index))
	case len(named) == 0:
		return image.Descriptor{}, fmt.Errorf("image %q: %w in the layout; %s", ref, container.ErrNotFound, offered(index))
	}
	return image.Choose(want, named)
}

// offered says which images there are, to a person.
func offered(index *image.Index) string {
	const most = 20
	if len(index.Manifests) == 0 {
		return "it has no image"
	}
	var names []string
	nameless := 0
	for _, d := range index.Manifests {
		if name, ok := d.Annotations[image.RefNameAnnotation]; ok {
			names = append(names, fmt.Sprintf("%.100q", name))
		} else {
			nameless++
		}
	}
	if len(names) > most {
		names = append(names[:most:most], "...")
	}
	if nameless > 0 {
		names = append(names, fmt.Sprintf("and %d without a name", nameless))
	}
	return fmt.Sprintf("it has %s", names)
}
