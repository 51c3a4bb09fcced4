// Package appc holds what is known of an Appc image (an ACI) without asking anybody: how
// it is named, its manifest, and which place a name leads to.
//
// The nouns, as the App Container specification has them:
//
//   - a Manifest says what an image is called, how it wants to be run and what it depends
//     on;
//   - an ID is the sha512 of an image's uncompressed tar;
//   - Labels tell images of one name apart; "version", "os" and "arch" are the usual ones;
//   - a Request is what a user, or a dependency, asks for: a name, labels, perhaps an ID;
//   - a Template leads from a request to the place of the image.
//
// Everything here is a value or a parser: no state, no I/O. Documents come from strangers,
// so every parser bounds what it reads. What a manifest has beside the members that berth
// knows is not looked at, and null is the same as nothing.
//
// It follows the App Container specification 0.8.11 ("App Container Image", "Image
// Discovery", "Types"); simple discovery, which 0.8 has no longer, is that of Mesos.
package appc
