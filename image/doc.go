// Package image holds what is known of an image without asking anybody: how it
// is named, which documents describe it, and for which platform it was made.
//
// The nouns:
//
//   - a Digest names bytes by their sha256;
//   - a Reference is what a user types: a transport, a path for those images
//     that lie on this machine, and a Name;
//   - a Descriptor points to bytes: their type, digest and size;
//   - a Document is an image manifest (a configuration and layers) or an index
//     (manifests, one a platform);
//   - a Config says how an image wants to be run, and the digests of its
//     uncompressed layers.
//
// Everything here is a value or a parser: no state, no I/O. What a parser
// accepts, it accepts again after printing, as the same value; the fuzz targets
// hold it to that. Documents come from strangers, so every parser bounds what it
// reads, and refuses a document that two readers could understand differently.
//
// Left to others: fetching (package registry), unpacking layers (package layer),
// whether the digests of a Config fit the layers that were fetched (the stores).
//
// Names follow "Pulling manifests" of the OCI distribution-spec with the defaults
// of Docker; documents follow the OCI image-spec ("Image Manifest", "Image Index",
// "Content Descriptors", "Image Configuration", "Media Types") and Docker's image
// manifest version 2, schema 2. Appc images have a package of their own, appc.
package image
