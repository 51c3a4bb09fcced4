package provisioner_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/container"
	"berth/image"
	"berth/internal/mount/mounttest"
	"berth/state"
)

// recordKey is what an image is recorded under.
type recordKey struct{ reference, platform string }

// model is what the test believes to be on disk.
type model struct {
	images map[recordKey]*picture
	// Layers go by their names.
	layers     map[string]bool
	broken     map[string]bool // of layers: damaged since they came
	lost       map[string]bool // not of layers: somebody has taken them away
	doubtful   map[string]bool // of layers: not verified since the machine went down
	superseded map[string]bool // there are copies that were replaced
	containers map[string]*modelContainer
	// untidy: a process has died, and nobody has recovered since.
	untidy bool
}

// modelContainer is one that has a directory, if only for its children.
type modelContainer struct {
	rootfses map[string]*modelRootfs // as recorded
	// half: a process died when it provisioned or destroyed it, so that there may be
	// more, or less, than the record says.
	half bool
	// bare: its directory is there for its children alone, and goes with the last one.
	bare bool
	// vague: it may be there or not.
	vague bool
}

type modelRootfs struct {
	backend string
	key     recordKey
	picture *picture
	path    string
	tree    map[string]string // what it shows
	half    bool              // it is recorded; nobody says that it is there
	spoilt  bool              // a layer of it was damaged: nobody says what it shows
}

func newModel() *model {
	return &model{
		images: make(map[recordKey]*picture), layers: make(map[string]bool), broken: make(map[string]bool), lost: make(map[string]bool),
		doubtful: make(map[string]bool), superseded: make(map[string]bool), containers: make(map[string]*modelContainer),
	}
}

// clone copies all but the pictures and the root filesystems.
func (m *model) clone() *model {
	c := &model{
		images: maps.Clone(m.images), layers: maps.Clone(m.layers), broken: maps.Clone(m.broken), lost: maps.Clone(m.lost),
		doubtful: maps.Clone(m.doubtful), superseded: maps.Clone(m.superseded), containers: make(map[string]*modelContainer), untidy: m.untidy,
	}
	for at, old := range m.containers {
		copied := *old
		copied.rootfses = maps.Clone(old.rootfses)
		c.containers[at] = &copied
	}
	return c
}

// isBroken reports whether a layer of the image is.
func (m *model) isBroken(p *picture) bool {
	return slices.ContainsFunc(p.layers, func(l string) bool { return m.broken[l] })
}

// named reports whether there are images of this name, and whether containers use them.
func (m *model) named(reference string) (has, used bool) {
	for k := range m.images {
		if k.reference == reference {
			has, used = true, used || m.isUsed(k)
		}
	}
	return has, used
}

func (m *model) isUsed(k recordKey) bool {
	for _, c := range m.containers {
		for _, r := range c.rootfses {
			if r.key == k {
				return true
			}
		}
	}
	return false
}

// users counts the images and root filesystems that have a layer.
func (m *model) users(l string) (n int) {
	for _, p := range m.images {
		if slices.Contains(p.layers, l) {
			n++
		}
	}
	for _, c := range m.containers {
		for _, r := range c.rootfses {
			if slices.Contains(r.picture.layers, l) {
				n++
			}
		}
	}
	return n
}

// inUse reports whether a root filesystem stands on the layer.
func (m *model) inUse(l string) bool {
	for _, c := range m.containers {
		for _, r := range c.rootfses {
			if slices.Contains(r.picture.layers, l) {
				return true
			}
		}
	}
	return false
}

// pull fetches what is missing, and what turns out to be broken when it is verified.
func (m *model) pull(k recordKey, p *picture) {
	m.images[k] = p
	for _, l := range p.layers {
		if m.doubtful[l] && m.broken[l] {
			m.superseded[l] = true
			delete(m.broken, l)
		}
		m.has(l)
	}
}

func (m *model) has(l string) {
	m.layers[l] = true
	delete(m.lost, l)
	delete(m.doubtful, l)
}

// damage breaks a layer, and what stands on it unless the damage is beside the tree.
func (m *model) damage(l string, tree bool) {
	m.broken[l] = true
	for _, c := range m.containers {
		for id, r := range c.rootfses {
			if tree && r.backend != "copy" && slices.Contains(r.picture.layers, l) {
				spoilt := *r
				spoilt.spoilt = true
				c.rootfses[id] = &spoilt
			}
		}
	}
}

// lose takes a layer away.
func (m *model) lose(l string) {
	m.damage(l, true)
	m.forget(l)
	m.lost[l] = true
}

func (m *model) forget(l string) {
	for _, set := range []map[string]bool{m.layers, m.broken, m.doubtful, m.lost} {
		delete(set, l)
	}
}

// checked is what a check does: what it finds whole is verified.
func (m *model) checked() {
	maps.DeleteFunc(m.doubtful, func(l string, _ bool) bool { return !m.broken[l] })
}

// faults are the layers that are broken, or missing though somebody needs them.
func (m *model) faults() map[string]bool {
	found := maps.Clone(m.broken)
	for l := range m.lost {
		if m.users(l) > 0 {
			found[l] = true
		}
	}
	return found
}

// mended is what a repair does.
type mended struct{ fetched, removed, remained []string }

func (m *model) repair() mended {
	m.checked()
	done := mended{[]string{}, []string{}, []string{}}
	for _, l := range sorted(m.faults()) {
		switch {
		case m.isOfImage(l):
			if m.layers[l] {
				m.superseded[l] = true
			}
			m.has(l)
			delete(m.broken, l)
			done.fetched = append(done.fetched, l)
		case m.inUse(l):
			done.remained = append(done.remained, l)
		default:
			m.forget(l)
			done.removed = append(done.removed, l)
		}
	}
	m.sweepSuperseded()
	return done
}

func (m *model) isOfImage(l string) bool {
	for _, p := range m.images {
		if slices.Contains(p.layers, l) {
			return true
		}
	}
	return false
}

func (m *model) remove(reference string) {
	maps.DeleteFunc(m.images, func(k recordKey, _ *picture) bool { return k.reference == reference })
}

// prune returns the images and the layers that go.
func (m *model) prune(excluded map[string]bool) (images map[recordKey]bool, layers []string) {
	images = make(map[recordKey]bool)
	for k := range m.images {
		if !excluded[k.reference] && !m.isUsed(k) {
			images[k] = true
		}
	}
	maps.DeleteFunc(m.images, func(k recordKey, _ *picture) bool { return images[k] })
	m.untidy = false
	return images, m.sweep()
}

// add returns the container, made with those above it when it is new.
func (m *model) add(at string) *modelContainer {
	c := m.dir(at)
	c.bare = false
	return c
}

func (m *model) dir(at string) *modelContainer {
	if m.containers[at] == nil {
		m.containers[at] = &modelContainer{rootfses: make(map[string]*modelRootfs), bare: true}
	}
	m.containers[at].vague = false
	if parent, nested := mustID(at).Parent(); nested {
		m.dir(parent.String())
	}
	return m.containers[at]
}

// destroy removes a container with its children, and those above it that were there for
// it alone.
func (m *model) destroy(at string) {
	maps.DeleteFunc(m.containers, func(other string, _ *modelContainer) bool { return isWithin(other, at) })
	for parent, nested := mustID(at).Parent(); nested; parent, nested = parent.Parent() {
		above := parent.String()
		if c := m.containers[above]; c == nil || !c.bare || m.hasChild(above) {
			return
		}
		delete(m.containers, above)
	}
}

func (m *model) hasChild(at string) bool {
	for other := range m.containers {
		if other != at && isWithin(other, at) {
			return true
		}
	}
	return false
}

func isWithin(id, ancestor string) bool { return id == ancestor || strings.HasPrefix(id, ancestor+".") }

func (m *model) recover(known []string) {
	m.untidy = false
	gone := 0
	for _, at := range sorted(m.containers) {
		stays := slices.ContainsFunc(known, func(k string) bool { return isWithin(k, at) && m.containers[k] != nil })
		if m.containers[at] == nil || stays {
			continue
		}
		above := slices.DeleteFunc(sorted(m.containers), func(other string) bool { return !isWithin(at, other) })
		m.destroy(at)
		gone++
		// Those that go at the same time may each leave it to the other to remove the
		// empty directory above them.
		for _, other := range above {
			if stays := slices.ContainsFunc(known, func(k string) bool { return isWithin(k, other) }); gone > 1 && stays && m.containers[other] == nil {
				m.containers[other] = &modelContainer{rootfses: make(map[string]*modelRootfs), bare: true, vague: true}
			}
		}
	}
}

// sweep returns the names of the layers that go.
func (m *model) sweep() []string {
	swept := []string{}
	for _, l := range sorted(m.layers) {
		if m.users(l) == 0 {
			swept = append(swept, l)
			m.forget(l)
		}
	}
	m.sweepSuperseded()
	return swept
}

func (m *model) sweepSuperseded() {
	maps.DeleteFunc(m.superseded, func(l string, _ bool) bool { return !m.inUse(l) })
}

func sorted[V any](set map[string]V) []string { return slices.Sorted(maps.Keys(set)) }

// doubt is what a reboot leaves: records, and no mounts.
func (c *modelContainer) doubt() {
	c.half = true
	for id, r := range c.rootfses {
		gone := *r
		gone.half = true
		c.rootfses[id] = &gone
	}
}

// found is what is on disk.
type found struct {
	images     map[recordKey][]string // the names of the layers
	layers     map[string]bool
	superseded map[string]bool
	containers map[string]map[string]foundRootfs
	bare       map[string]bool            // containers
	made       map[string]map[string]bool // the root filesystems and scratches by container
	mounts     []string
	leftovers  []string // of leases
}

type foundRootfs struct {
	Backend  string
	Image    string
	Platform string
	Layers   []image.Digest
}

func (w *world) look(t reporter) found {
	t.Helper()
	f := found{
		images: make(map[recordKey][]string), layers: make(map[string]bool), superseded: make(map[string]bool),
		containers: make(map[string]map[string]foundRootfs), bare: make(map[string]bool), made: make(map[string]map[string]bool),
	}
	recorded, err := w.images.List(bg)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recorded {
		f.images[recordKey{rec.Reference, rec.Platform}] = layersOf(rec.Layers)
	}
	for _, digest := range list(t, filepath.Join(w.Layers.Dir(), "layers")) {
		for _, form := range list(t, filepath.Join(w.Layers.Dir(), "layers", digest)) {
			if name := layerNames[image.Digest(digest)]; form == "tree" {
				f.layers[name] = true
			} else {
				f.superseded[name] = true
			}
		}
	}
	for _, sub := range []string{"leases", "staging"} {
		for _, name := range list(t, filepath.Join(w.Layers.Dir(), sub)) {
			f.leftovers = append(f.leftovers, sub+"/"+name)
		}
	}
	w.lookBelow(t, container.ID{}, &f)
	if f.mounts, err = mounttest.Points(w.Paths.Root()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (w *world) lookBelow(t reporter, parent container.ID, f *found) {
	t.Helper()
	dir := w.Paths.Root()
	if !parent.IsZero() {
		dir = w.Paths.Container(parent)
	}
	children, err := state.Children(dir, parent)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range children {
		at := id.String()
		f.containers[at], f.made[at] = w.recorded(t, at), make(map[string]bool)
		f.bare[at] = !slices.ContainsFunc(list(t, w.Paths.Container(id)), func(name string) bool { return name != "containers" })
		for _, backend := range list(t, w.Paths.Backends(id)) {
			for _, kind := range []string{"rootfses", "scratch"} {
				for _, rootfs := range list(t, filepath.Join(w.Paths.BackendDir(id, backend), kind)) {
					f.made[at][rootfs] = true
				}
			}
		}
		w.lookBelow(t, id, f)
	}
}

// recorded reads a container's record, as anybody can.
func (w *world) recorded(t reporter, at string) map[string]foundRootfs {
	t.Helper()
	data, err := os.ReadFile(w.Paths.Layers(mustID(at)))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !json.Valid(data) { // the process died amid the first one
		return nil
	}
	var rec struct{ Rootfses map[string]foundRootfs }
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rec.Rootfses
}

// list returns the names in a directory, none when it does not exist.
func list(t reporter, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// layersOf names layers in their order.
func layersOf(ids []image.Digest) []string {
	var names []string
	for _, id := range ids {
		names = append(names, layerNames[id])
	}
	return names
}

// adopt returns the model of what a process has left that died on the way from m to
// after: each thing is as it was, as it was to be, or, in a container, half-way.
//
// broken are the layers that were found to be.
func (m *model) adopt(t reporter, after *model, f found, broken map[string]bool) *model {
	t.Helper()
	now := m.clone()
	now.untidy = true
	now.adoptLayers(t, after, f, broken)
	for k := range union(m.images, after.images) {
		old, new, seen := m.images[k], after.images[k], f.images[k]
		switch {
		case old.is(seen):
		case new.is(seen):
			set(now.images, k, new)
		default:
			t.Fatalf("image %v has the layers %q, want those of %v or of %v", k, seen, old, new)
		}
	}
	for at := range union(m.containers, after.containers) {
		old, new := m.containers[at], after.containers[at]
		seen, there := f.containers[at]
		switch {
		case !there && old != nil && new != nil && !old.vague && !new.vague:
			t.Fatalf("container %s has gone", at)
		case !there:
			delete(now.containers, at)
		default:
			now.containers[at] = adoptContainer(t, at, old, new, seen)
			now.containers[at].bare = f.bare[at]
		}
	}
	return now
}

// adoptLayers is adopt for the layers. None may be broken that was not, and none whole
// that was not to be mended.
func (m *model) adoptLayers(t reporter, after *model, f found, broken map[string]bool) {
	t.Helper()
	for l := range union(union(m.layers, after.layers), f.layers) {
		if f.layers[l] != m.layers[l] && f.layers[l] != after.layers[l] {
			t.Fatalf("layer %s: there is %v, was %v, was to be %v", l, f.layers[l], m.layers[l], after.layers[l])
		}
		if broken[l] != m.broken[l] && broken[l] != after.broken[l] && f.layers[l] {
			t.Fatalf("layer %s: broken is %v, was %v, was to be %v", l, broken[l], m.broken[l], after.broken[l])
		}
	}
	for l := range f.superseded {
		if !m.superseded[l] && !m.broken[l] && !m.lost[l] {
			t.Fatalf("layer %s has a copy that was replaced, and was whole", l)
		}
	}
	lost := union(m.lost, after.lost)
	maps.DeleteFunc(lost, func(l string, _ bool) bool { return f.layers[l] })
	m.layers, m.broken, m.lost, m.superseded = f.layers, broken, lost, f.superseded
	// They have just been examined.
	maps.DeleteFunc(m.doubtful, func(l string, _ bool) bool { return !broken[l] })
}

// adoptContainer is adopt for a container that is there.
func adoptContainer(t reporter, at string, old, new *modelContainer, seen map[string]foundRootfs) *modelContainer {
	t.Helper()
	now := &modelContainer{rootfses: make(map[string]*modelRootfs)}
	if old != nil && new != nil && maps.Equal(old.rootfses, new.rootfses) {
		*now = *old
		now.vague = false
		return now
	}
	now.half = true
	for id, recorded := range seen {
		if old != nil && old.rootfses[id] != nil {
			rootfs := *old.rootfses[id]
			rootfs.half = rootfs.half || new == nil
			now.rootfses[id] = &rootfs
			continue
		}
		if new == nil || new.rootfses["?"] == nil && new.rootfses[id] == nil {
			t.Fatalf("container %s has the root filesystem %s, of %s", at, id, recorded.Image)
		}
		rootfs := new.rootfses["?"]
		if rootfs == nil {
			rootfs = new.rootfses[id]
		}
		copied := *rootfs
		copied.half = true
		now.rootfses[id] = &copied
	}
	if old != nil && new != nil {
		for id := range old.rootfses {
			if now.rootfses[id] == nil {
				t.Fatalf("container %s has lost the record of its root filesystem %s", at, id)
			}
		}
	}
	return now
}

// is reports whether the image has these layers; nil is no image.
func (p *picture) is(layers []string) bool {
	if p == nil {
		return layers == nil
	}
	return slices.Equal(p.layers, layers)
}

func set(images map[recordKey]*picture, k recordKey, p *picture) {
	if p == nil {
		delete(images, k)
		return
	}
	images[k] = p
}

func union[K comparable, A, B any](a map[K]A, b map[K]B) map[K]bool {
	keys := make(map[K]bool)
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	return keys
}
