package appc

import (
	"errors"
	"fmt"
	"slices"

	"berth/image"
	"berth/image/appc"
)

// notes are what is recorded of an image beside what is of all. They implement fetch.Notes.
type notes struct {
	// Images are the image itself, which is the one with the index Top, and what it depends
	// on. Pieces has for each layer which of them it is made of.
	Images []imageNotes `json:"images"`
	Top    int          `json:"top"`
	Pieces []piece      `json:"pieces"`

	keyring   *keyring
	manifests []*appc.Manifest // of Images
}

// imageNotes is one image as it was fetched.
type imageNotes struct {
	ID appc.ID  `json:"id"`
	At location `json:"at"`
	// Size and Digest are those of the file.
	Size   int64        `json:"size"`
	Digest image.Digest `json:"digest"`
	// Signer is the fingerprint of the key that has signed it; "" when nobody asked.
	Signer   string `json:"signer,omitempty"`
	Manifest string `json:"manifest"`
}

// piece is a layer of the image that was asked for: that of one image, of which the
// whitelists of others, by their index, leave what they do.
type piece struct {
	DiffID    image.Digest `json:"diffID"`
	Image     int          `json:"image"`
	Whitelist []int        `json:"whitelist,omitempty"`
}

// Check implements fetch.Notes.
func (n *notes) Check(config *image.Config) error {
	for _, img := range n.Images {
		manifest, err := appc.ParseManifest([]byte(img.Manifest))
		if err == nil {
			_, err = appc.ParseID(img.ID.String())
		}
		if err != nil {
			return err
		}
		n.manifests = append(n.manifests, manifest)
	}
	indexes := []int{n.Top}
	var layers []image.Digest
	for _, p := range n.Pieces {
		indexes = append(append(indexes, p.Image), p.Whitelist...)
		layers = append(layers, p.DiffID)
	}
	if slices.ContainsFunc(indexes, func(i int) bool { return i < 0 || i >= len(n.Images) }) {
		return errors.New("it speaks of an image that it does not have")
	}
	if !slices.Equal(layers, config.DiffIDs) {
		return errors.New("the layers in it are not those of its images")
	}
	config.Appc = n.manifests[n.Top]
	return nil
}

// Trusted implements fetch.Notes: what was fetched without a signature, or with that of a
// key that is no longer trusted, has to be fetched again.
func (n *notes) Trusted() bool {
	return n.keyring == nil || !slices.ContainsFunc(n.Images, func(img imageNotes) bool { return !n.keyring.hasKey(img.Signer) })
}

// piece returns the one of a layer.
func (n *notes) piece(id image.Digest) (piece, error) {
	at := slices.IndexFunc(n.Pieces, func(p piece) bool { return p.DiffID == id })
	if at < 0 {
		return piece{}, fmt.Errorf("no image has the layer %s", id)
	}
	return n.Pieces[at], nil
}

// whitelist is what leaves of an image what the piece has.
func (n *notes) whitelist(p piece) (kept whitelist) {
	for _, i := range p.Whitelist {
		kept = kept.with(n.manifests[i].PathWhitelist)
	}
	return kept
}
