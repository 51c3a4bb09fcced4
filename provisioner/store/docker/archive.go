package docker

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"berth/container"
	"berth/image"
)

// archiveSource is one image in a file as `docker save` writes it: a tar with
// manifest.json, or, before Docker 1.10, with the file `repositories` and a
// directory for each layer. It reads the file in place, by an index of its members.
type archiveSource struct {
	file      *os.File
	reference image.Reference
	want      image.Platform
	members   *members
	at        map[image.Digest]member // diffID -> the layer's tar
}

func openArchive(reference image.Reference, want image.Platform) (*archiveSource, error) {
	file, err := os.Open(reference.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	return &archiveSource{file: file, reference: reference, want: want, at: make(map[image.Digest]member)}, nil
}

func (a *archiveSource) Close() error { return a.file.Close() }

func (a *archiveSource) resolve(ctx context.Context) (*resolved, error) {
	stat, err := statSource(a.reference.Path)
	if err != nil {
		return nil, err
	}
	if a.members, err = indexMembers(ctx, a.file); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	var found *resolved
	if a.members.has("manifest.json") {
		found, err = a.resolveManifest(ctx)
	} else {
		found, err = a.resolveRepositories(ctx)
	}
	if err != nil {
		return nil, err
	}
	if !a.want.Accepts(found.parsed.Platform) {
		return nil, fmt.Errorf("image for %s: %w: the archive's is for %s", a.want, container.ErrNotFound, found.parsed.Platform)
	}
	found.file = stat
	return found, nil
}

func (a *archiveSource) open(_ context.Context, l fetchable) (io.ReadCloser, error) {
	return io.NopCloser(a.members.open(a.at[l.diffID])), nil
}

// savedImage is an entry of manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *archiveSource) resolveManifest(ctx context.Context) (*resolved, error) {
	var images []savedImage
	if err := a.members.decode("manifest.json", &images); err != nil {
		return nil, err
	}
	chosen, err := a.choose(images)
	if err != nil {
		return nil, err
	}
	config, err := a.members.read(chosen.Config)
	if err != nil {
		return nil, err
	}
	return a.assemble(ctx, config, chosen.Layers)
}

// choose returns the image that the reference names, or the only one.
func (a *archiveSource) choose(images []savedImage) (savedImage, error) {
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

func (a *archiveSource) notInArchive(tags []string) error {
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
func (a *archiveSource) assemble(_ context.Context, config []byte, layers []string) (*resolved, error) {
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	if len(parsed.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%w: the manifest has %d layers, the configuration names %d", container.ErrInvalid, len(layers), len(parsed.DiffIDs))
	}
	found := &resolved{config: config, parsed: parsed}
	for i, name := range layers {
		m, err := a.members.find(name)
		if err != nil {
			return nil, err
		}
		id := parsed.DiffIDs[i]
		a.at[id] = m
		found.layers = append(found.layers, fetchable{id, image.Descriptor{Digest: id, Size: m.size}})
	}
	return found, nil
}

// resolveRepositories reads the older layout: a name leads to the topmost layer,
// each layer's json to its parent. It has no diffIDs, so the layers are read twice.
func (a *archiveSource) resolveRepositories(ctx context.Context) (*resolved, error) {
	var repositories map[string]map[string]string
	if err := a.members.decode("repositories", &repositories); err != nil {
		return nil, fmt.Errorf("%w: it has neither manifest.json nor, for archives older than Docker 1.10, repositories", err)
	}
	top, err := a.topLayer(repositories)
	if err != nil {
		return nil, err
	}
	chain, config, err := a.layerChain(top)
	if err != nil {
		return nil, err
	}
	var diffIDs []image.Digest
	var layers []string
	for _, id := range chain {
		name := id + "/layer.tar"
		m, err := a.members.find(name)
		if err != nil {
			return nil, err
		}
		digest, err := digestOf(ctx, a.members.open(m))
		if err != nil {
			return nil, fmt.Errorf("archive member %s: %w", name, err)
		}
		diffIDs, layers = append(diffIDs, digest), append(layers, name)
	}
	config.RootFS = rootFS{Type: "layers", DiffIDs: diffIDs}
	body, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	return a.assemble(ctx, body, layers)
}

func (a *archiveSource) topLayer(repositories map[string]map[string]string) (string, error) {
	var tags, tops []string
	for repository, versions := range repositories {
		for tag, top := range versions {
			full := repository + ":" + tag
			if name, err := image.ParseName(full); err == nil && name == a.reference.Name {
				return top, nil
			}
			tags, tops = append(tags, full), append(tops, top)
		}
	}
	if a.reference.Name.IsZero() && len(tops) == 1 {
		return tops[0], nil
	}
	slices.Sort(tags)
	return "", a.notInArchive(tags)
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
func (a *archiveSource) layerChain(top string) (chain []string, config layerJSON, err error) {
	for id := top; id != ""; {
		if slices.Contains(chain, id) {
			return nil, config, fmt.Errorf("%w: the layer %q is its own ancestor", container.ErrInvalid, id)
		}
		if len(chain) == image.MaxLayers {
			return nil, config, fmt.Errorf("%w: it has more than %d layers", container.ErrInvalid, image.MaxLayers)
		}
		var layer layerJSON
		if err := a.members.decode(id+"/json", &layer); err != nil {
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

// cleanMember is the form in which members are looked up.
func cleanMember(name string) string { return strings.TrimPrefix(strings.TrimSuffix(name, "/"), "./") }
