// Package appc is the store of Appc images (ACIs). Package fetch is what happens with them.
//
// The discovery (discover.go) leads from a request to the file of an image. It is
// downloaded into a file of the lease (bundle.go), where its signature is verified when
// there is a key ring (pgp.go), and read once to learn its image id, its manifest and the
// digest of the layer that it becomes (aci.go). So all is known of an image, and of those
// that it depends on (resolve.go), before a layer is unpacked (source.go). A record has
// their manifests, and which images the layers were made of (notes.go).
//
// # Layers
//
// The layer of an image is the tar of what is below its directory "rootfs": the same
// entries in the same order, with the names that they have there and the attributes that a
// layer can have. So an image has one diffID wherever it is fetched and however it is
// compressed, and layers are shared with all other images.
//
// The dependencies of an image come below it, in the order of the manifest, each with its
// own dependencies below; of a layer that occurs again higher up only the upper place
// counts. A pathWhitelist takes from the layers of the image, and of what it depends on,
// all else: a dependency of an image with one is a layer of its own for this image.
//
// An Appc image has no whiteouts. One with a file of such a name is refused.
//
// Its metrics beside those of package fetch, whose bytes are those of layers:
//
//	images_fetched        counter: files of images, those of dependencies too
//	image_bytes_fetched   counter: of these files, also of those that failed
package appc

import (
	"fmt"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/image/appc"
	"berth/internal/metrics"
	"berth/provisioner/store/fetch"
	"berth/registry"
)

// Options are what a store is made of.
type Options struct {
	fetch.Options
	// Web fetches what is not on this machine.
	Web *registry.Client
	// Prefix is that of simple discovery: of a URL of http or https, or of a path, which
	// may be written as file://. Empty: images are looked for by the meta discovery of the
	// specification.
	Prefix string
	// Keyring is a file with OpenPGP keys, armored or not: images have to be signed by one
	// of them. Empty: signatures are not looked for.
	Keyring string
	// PassphraseFile holds in its first line what encrypted images are decrypted with.
	// Empty: encrypted images are refused.
	PassphraseFile string
}

// Store implements store.Store.
type Store struct {
	*fetch.Store
}

// New returns the store, and makes its directory when missing. ErrInvalid: the prefix, the
// key ring or the passphrase cannot be used.
func New(o Options) (*Store, error) {
	kd, err := newKind(o)
	if err != nil {
		return nil, fmt.Errorf("open appc store: %w", err)
	}
	s, err := fetch.New(kd, o.Options)
	if err != nil {
		return nil, err
	}
	return &Store{s}, nil
}

// kind implements fetch.Annotator.
type kind struct {
	web        *registry.Client
	prefix     string
	keyring    *keyring // nil: signatures do not matter
	passphrase []byte   // nil: none is known

	imagesFetched *metrics.Counter
	bytesFetched  *metrics.Counter
}

func newKind(o Options) (_ *kind, err error) {
	const prefix = "containerizer/mesos/provisioner/appc_store/"
	kd := &kind{
		web: o.Web, prefix: o.Prefix,
		imagesFetched: o.Metrics.Counter(prefix + "images_fetched"),
		bytesFetched:  o.Metrics.Counter(prefix + "image_bytes_fetched"),
	}
	if err := checkPrefix(o.Prefix); err != nil {
		return nil, err
	}
	if o.Keyring != "" {
		if kd.keyring, err = readKeyring(o.Keyring); err != nil {
			return nil, fmt.Errorf("key ring %s: %w", o.Keyring, err)
		}
	}
	if o.PassphraseFile != "" {
		if kd.passphrase, err = readPassphrase(o.PassphraseFile); err != nil {
			return nil, fmt.Errorf("passphrase file: %w", err)
		}
	}
	return kd, nil
}

func (kd *kind) Name() string { return "appc" }

const transport = string(image.Appc) + ":"

// Parse reads the message of an image. Its name may be a whole reference, too: appc:NAME,
// with labels and id.
func (kd *kind) Parse(img *v1.Image) (image.Reference, *v1.Secret, error) {
	if img.GetType() != v1.Image_APPC {
		return image.Reference{}, nil, fmt.Errorf("image of type %s: %w for the appc store", img.GetType(), container.ErrInvalid)
	}
	asked := img.GetAppc()
	text := asked.GetName()
	if len(asked.GetLabels().GetLabels()) > 0 || asked.GetId() != "" || !strings.HasPrefix(text, transport) {
		var labels []appc.Label
		for _, l := range asked.GetLabels().GetLabels() {
			labels = append(labels, appc.Label{Name: l.GetKey(), Value: l.GetValue()})
		}
		request, err := appc.NewRequest(text, labels, appc.ID(asked.GetId()))
		if err != nil {
			return image.Reference{}, nil, err
		}
		text = transport + request.String()
	}
	reference, err := image.ParseReference(text)
	return reference, nil, err
}

// NewNotes implements fetch.Annotator.
func (kd *kind) NewNotes() fetch.Notes { return &notes{keyring: kd.keyring} }

// Source implements fetch.Kind.
func (kd *kind) Source(r fetch.Request) (fetch.Source, error) {
	request, err := appc.ParseRequest(r.Reference.Appc)
	if err != nil {
		return nil, err
	}
	want, err := r.Want()
	if err != nil {
		return nil, err
	}
	system, err := appc.NewSystem(want.OS, want.Architecture, want.Variant)
	if err != nil {
		return nil, err
	}
	return &source{kind: kd, request: request, platform: want, system: system, tmp: r.Tmp}, nil
}
