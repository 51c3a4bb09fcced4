package docker

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"berth/container"
	"berth/image"
	"berth/provisioner/store/fetch"
)

// archiveSource is one image in a file as `docker save` writes it: a tar with
// manifest.json, or, before Docker 1.10, with the file `repositories` and a
// directory for each layer.
type archiveSource struct {
	archive
	file *fetch.Archive
}

// archive is an image in an archive whose members are known.
type archive struct {
	reference image.Reference
	want      image.Platform
	members   *fetch.Members
	at        map[image.Digest]fetch.Member // diffID -> the layer's tar
}

func openArchive(reference image.Reference, want image.Platform, tmp func() (string, error)) (*archiveSource, error) {
	file, err := fetch.OpenArchive(reference.Path, tmp)
	if err != nil {
		return nil, err
	}
	return &archiveSource{archive: archive{reference: reference, want: want}, file: file}, nil
}

// Close implements fetch.Source.
func (a *archiveSource) Close() error { return a.file.Close() }

// Resolve implements fetch.Source.
func (a *archiveSource) Resolve(ctx context.Context) (*fetch.Resolved, error) {
	if err := a.file.Index(ctx); err != nil {
		return nil, err
	}
	a.members = a.file.Members
	found, err := a.find(ctx)
	if err != nil {
		return nil, err
	}
	found.File = a.file.File
	return found, nil
}

// Recall implements fetch.Source.
func (a *archiveSource) Recall(ctx context.Context, from fetch.Recorded) error {
	found, err := a.Resolve(ctx)
	if err == nil && (from.File == nil || *found.File != *from.File) {
		err = fmt.Errorf("read archive %s: %w: it has changed since the image was read from it", a.reference.Path, container.ErrNotFound)
	}
	return err
}

// Open implements fetch.Source.
func (a *archiveSource) Open(_ context.Context, l fetch.Layer) (io.ReadCloser, error) {
	return io.NopCloser(a.members.Open(a.at[l.DiffID])), nil
}

// find resolves the reference. One with a digest is refused: that an archive gives an image
// such a name proves nothing.
func (a *archive) find(ctx context.Context) (found *fetch.Resolved, err error) {
	if a.reference.Name.Digest != "" {
		return nil, fmt.Errorf("image %s: %w: nothing in the archive proves the digest in its name", a.reference.Name, container.ErrInvalid)
	}
	if a.members.Has("manifest.json") {
		found, err = a.findInManifest()
	} else {
		found, err = a.findInRepositories(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := fetch.Suits(a.want, found.Parsed.Platform); err != nil {
		return nil, err
	}
	return found, nil
}

// savedImage is an entry of manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *archive) findInManifest() (*fetch.Resolved, error) {
	var images []savedImage
	if err := a.members.Decode("manifest.json", &images); err != nil {
		return nil, err
	}
	chosen, err := a.choose(images)
	if err != nil {
		return nil, err
	}
	config, err := a.members.Read(chosen.Config)
	if err != nil {
		return nil, err
	}
	return a.assemble(config, chosen.Layers)
}

// choose returns the image that the reference names, or the only one.
func (a *archive) choose(images []savedImage) (savedImage, error) {
	if a.reference.Name.IsZero() && len(images) == 1 {
		return images[0], nil
	}
	var tags []string
	for _, img := range images {
		for _, tag := range img.RepoTags {
			if name, err := image.ParseName(tag); err == nil && name == a.reference.Name {
				return img, nil
			}
			tags = append(tags, tag)
		}
	}
	return savedImage{}, a.notInArchive(tags)
}

func (a *archive) notInArchive(tags []string) error {
	const most = 20
	if len(tags) > most {
		tags = append(tags[:most:most], "...")
	}
	if a.reference.Name.IsZero() {
		return fmt.Errorf("%w: the archive does not hold exactly one image; name one as docker-archive:FILE:NAME; it has %q", container.ErrInvalid, tags)
	}
	return fmt.Errorf("image %s: %w in the archive; it has %q", a.reference.Name, container.ErrNotFound, tags)
}

// assemble pairs the layers' members with the diffIDs of the configuration.
func (a *archive) assemble(config []byte, layers []string) (*fetch.Resolved, error) {
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	if len(parsed.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%w: the manifest has %d layers, the configuration names %d", container.ErrInvalid, len(layers), len(parsed.DiffIDs))
	}
	a.at = make(map[image.Digest]fetch.Member)
	found := &fetch.Resolved{Config: config, Parsed: parsed}
	for i, name := range layers {
		m, err := a.members.Find(name)
		if err != nil {
			return nil, err
		}
		id := parsed.DiffIDs[i]
		a.at[id] = m
		found.Layers = append(found.Layers, fetch.Layer{DiffID: id, Descriptor: image.Descriptor{Digest: id, Size: m.Size}})
	}
	return found, nil
}

// findInRepositories reads the older layout: a name leads to the topmost layer, each
// layer's json to its parent. It has no diffIDs, so the layers are read twice.
func (a *archive) findInRepositories(ctx context.Context) (*fetch.Resolved, error) {
	var repositories map[string]map[string]string
	if err := a.members.Decode("repositories", &repositories); err != nil {
		return nil, fmt.Errorf("%w; and there is no manifest.json, which archives since Docker 1.10 have", err)
	}
	top, err := a.topLayer(repositories)
	if err != nil {
		return nil, err
	}
	chain, config, err := a.layerChain(top)
	if err != nil {
		return nil, err
	}
	var layers []string
	for _, id := range chain {
		layers = append(layers, id+"/layer.tar")
	}
	config.RootFS = rootFS{Type: "layers"}
	if config.RootFS.DiffIDs, err = a.digestAll(ctx, layers); err != nil {
		return nil, err
	}
	body, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	return a.assemble(body, layers)
}

func (a *archive) digestAll(ctx context.Context, names []string) (digests []image.Digest, err error) {
	for _, name := range names {
		m, err := a.members.Find(name)
		if err != nil {
			return nil, err
		}
		digest, err := digestOf(ctx, a.members.Open(m))
		if err != nil {
			return nil, fmt.Errorf("archive member %.100q: %w", name, err)
		}
		digests = append(digests, digest)
	}
	return digests, nil
}

// topLayer returns the topmost layer of the image that the reference names, or of the
// only one, which may have several names.
func (a *archive) topLayer(repositories map[string]map[string]string) (string, error) {
	tops := topLayers(repositories)
	tags := slices.Sorted(maps.Keys(tops))
	for _, tag := range tags {
		if name, err := image.ParseName(tag); err == nil && name == a.reference.Name {
			return tops[tag], nil
		}
	}
	if only := slices.Compact(slices.Sorted(maps.Values(tops))); a.reference.Name.IsZero() && len(only) == 1 {
		return only[0], nil
	}
	return "", a.notInArchive(tags)
}

// topLayers returns the topmost layer of each name.
func topLayers(repositories map[string]map[string]string) map[string]string {
	tops := make(map[string]string)
	for repository, versions := range repositories {
		for tag, top := range versions {
			tops[repository+":"+tag] = top
		}
	}
	return tops
}

// layerJSON is <layer>/json of the older layout, and, with RootFS, the configuration
// that an image of it gets.
type layerJSON struct {
	Parent       string          `json:"parent,omitempty"`
	OS           string          `json:"os"`
	Architecture string          `json:"architecture"`
	Config       json.RawMessage `json:"config,omitempty"`
	RootFS       rootFS          `json:"rootfs"`
}

type rootFS struct {
	Type    string         `json:"type"`
	DiffIDs []image.Digest `json:"diff_ids"`
}

// layerChain returns the ids of the layers, base first, and the json of the topmost.
func (a *archive) layerChain(top string) (chain []string, config layerJSON, err error) {
	for id := top; id != ""; {
		if slices.Contains(chain, id) {
			return nil, config, fmt.Errorf("%w: the layer %q is its own ancestor", container.ErrInvalid, id)
		}
		if len(chain) == image.MaxLayers {
			return nil, config, fmt.Errorf("%w: it has more than %d layers", container.ErrInvalid, image.MaxLayers)
		}
		var layer layerJSON
		if err := a.members.Decode(id+"/json", &layer); err != nil {
			return nil, config, err
		}
		if id == top {
			config = layer
		}
		chain = append(chain, id)
		id = layer.Parent
	}
	slices.Reverse(chain)
	config.Parent = ""
	return chain, config, nil
}

func digestOf(ctx context.Context, r io.Reader) (image.Digest, error) {
	sum := sha256.New()
	buffer := make([]byte, 1<<20)
	for {
		if err := context.Cause(ctx); err != nil {
			return "", err
		}
		n, err := r.Read(buffer)
		sum.Write(buffer[:n])
		if err == io.EOF {
			return image.DigestOfSum([sha256.Size]byte(sum.Sum(nil))), nil
		}
		if err != nil {
			return "", err
		}
	}
}
