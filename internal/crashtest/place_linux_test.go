package crashtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/registry"
)

// place is where processes work, and on what: all that they have to be told.
type place struct {
	Dir         string // with the directories work and run
	Runtime     string // in place of run
	LauncherDir string // of berth-init
	CgroupsRoot string
	Backend     string
	References  map[string]string // of images, by the names that the operations have for them
	ACIs        string            // prefix of the places of Appc images
}

func (p place) config() engine.Config {
	c := engine.DefaultConfig()
	c.WorkDir, c.RuntimeDir = filepath.Join(p.Dir, "work"), cmp.Or(p.Runtime, filepath.Join(p.Dir, "run"))
	c.LauncherDir, c.CgroupsRoot = p.LauncherDir, p.CgroupsRoot
	c.ImageProvisionerBackend = p.Backend
	c.Registry.Transport = transport
	c.AppcSimpleDiscoveryURIPrefix = p.ACIs
	return c
}

// transport is one for all engines of this process, which would each keep connections.
var transport = registry.NewTransport()

// with opens an engine as a process does, and closes it as one does.
func (p place) with(ctx context.Context, do func(*engine.Engine) error) (err error) {
	e, err := engine.Open(ctx, p.config())
	if err != nil {
		return err
	}
	return errors.Join(do(e), e.Close())
}

func (p place) image(name string) *v1.Image {
	reference := proto.String(p.References[name])
	if strings.HasPrefix(*reference, "appc:") {
		return &v1.Image{Type: v1.Image_APPC.Enum(), Appc: &v1.Image_Appc{Name: reference}}
	}
	return &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: reference}}
}

// again is the image as its source has it now.
func (p place) again(name string) *v1.Image {
	img := p.image(name)
	img.Cached = proto.Bool(false)
	return img
}

// theContainer is the one that the operations provision and destroy.
var theContainer = mustID("c")

func mustID(text string) container.ID {
	id, err := container.ParseID(text)
	if err != nil {
		panic(err)
	}
	return id
}

func (p place) store(sub ...string) string {
	return filepath.Join(append([]string{p.Dir, "work/store"}, sub...)...)
}

func (p place) containers() string { return filepath.Join(p.Dir, "work/provisioner/containers") }

// files lists what there is, but for the insides of containers and of the layers' trees.
func (p place) files() (files []string, err error) {
	err = filepath.WalkDir(p.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(p.Dir, path)
		if err != nil {
			return err
		}
		if volatile(name) {
			return nil
		}
		files = append(files, name)
		inside := filepath.Dir(path) == p.containers() || d.Name() == "fs"
		if inside && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	slices.Sort(files)
	return files, err
}

// volatile says of which files there may be one at one time and none at another.
func volatile(name string) bool {
	return name == "." || name == "lost+found"
}

// inFlight lists what only a process at work may have.
func (p place) inFlight() (found []string, err error) {
	for _, dir := range []string{p.store("leases"), p.store("staging")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found, nil
}

// openFiles lists the files below the place that this process has open.
func (p place) openFiles() (open []string, err error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && strings.HasPrefix(target, p.Dir+"/") {
			open = append(open, fmt.Sprintf("%s: %s", fd.Name(), target))
		}
	}
	return open, nil
}
