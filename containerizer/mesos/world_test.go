//go:build linux

package mesos

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/image"
	"berth/internal/cgroup"
	"berth/isolator"
	"berth/isolator/cgroups/cpu"
	"berth/isolator/cgroups/devices"
	"berth/isolator/cgroups/mem"
	"berth/isolator/cgroups/pids"
	filesystem "berth/isolator/filesystem/linux"
	"berth/isolator/namespaces/ipc"
	"berth/isolator/namespaces/pid"
	"berth/isolator/namespaces/user"
	"berth/isolator/namespaces/uts"
	"berth/isolator/network/cni"
	"berth/isolator/runtime"
	"berth/isolator/volume/hostpath"
	imagevolume "berth/isolator/volume/image"
	"berth/isolator/volume/sandboxpath"
	"berth/isolator/volume/secret"
	"berth/launcher"
	linux "berth/launcher/linux"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/backend"
	"berth/provisioner/backend/bind"
	"berth/provisioner/backend/copy"
	"berth/provisioner/backend/overlay"
	"berth/provisioner/store"
	"berth/state"
)

const (
	busybox    = "/bin/busybox"
	sandboxDir = "/mnt/mesos/sandbox"
)

// world is where containers live. Another process may open the same one.
type world struct {
	Work, Runtime, Store, Init, CgroupsRoot, Backend string
}

// parts are what a containerizer of a world is made of; a test may put something of its
// own before any of them.
type parts struct {
	store     store.Store
	launcher  launcher.Launcher
	isolators []isolator.Isolator
	log       *slog.Logger
	agent     bool
	observe   func(containerizer.Event)
}

func (w world) open(change func(*parts)) (*Containerizer, *linux.Launcher, error) {
	layout, err := state.NewLayout(w.Work, w.Runtime)
	if err != nil {
		return nil, nil, err
	}
	layers, err := layer.Open(w.Store, layer.DefaultLimits)
	if err != nil {
		return nil, nil, err
	}
	host, err := cgroup.Detect()
	if err != nil {
		return nil, nil, err
	}
	l, err := linux.New(linux.Options{Layout: layout, Cgroups: host, CgroupsRoot: w.CgroupsRoot, Dir: w.Init})
	if err != nil {
		return nil, nil, err
	}
	var made *provisioner.Provisioner
	p := parts{store: fileStore{dir: w.Store, layers: layers}, launcher: l, log: slog.New(slog.DiscardHandler), isolators: []isolator.Isolator{
		filesystem.New(filesystem.Options{SandboxDirectory: sandboxDir, Volume: layout.PersistentVolume}),
		cpu.New(l), mem.New(l, false, slog.New(slog.DiscardHandler)), pids.New(l), devices.New(l, host, nil), runtime.New(v1.Image_DOCKER), ipc.New(ipc.Options{}), pid.New(false), uts.New(), user.New(), cni.New(w.networks(layout, l)),
		sandboxpath.New(sandboxpath.Options{SandboxDirectory: sandboxDir, Sandbox: layout.Sandbox}),
		hostpath.New(hostpath.Options{SandboxDirectory: sandboxDir}), secret.New(secret.Options{SandboxDirectory: sandboxDir}),
		imagevolume.New(imagevolume.Options{SandboxDirectory: sandboxDir, Provision: func(ctx context.Context, id container.ID, volumes []imagevolume.Volume, ids container.IDRange) (paths []string, err error) {
			var wanted []provisioner.Wanted
			for _, v := range volumes {
				wanted = append(wanted, provisioner.Wanted(v))
			}
			all, err := made.ProvisionAll(ctx, id, wanted, ids)
			for _, rootfs := range all {
				paths = append(paths, rootfs.Path)
			}
			return paths, err
		}})}}
	if change != nil {
		change(&p)
	}
	made, err = provisioner.New(provisioner.Options{Paths: layout.Provisioner(), Layers: layers, Backend: w.Backend,
		Stores:   map[v1.Image_Type]store.Store{v1.Image_DOCKER: p.store},
		Backends: map[string]backend.Backend{"overlay": overlay.New(), "copy": copy.New(), "bind": bind.New(nil)}})
	if err != nil {
		return nil, nil, err
	}
	return New(Options{Layout: layout, Provisioner: made, Launcher: p.launcher, Isolators: p.isolators,
		Ranges: &user.Ranges{Pool: userPool, Etc: "/etc"}, SandboxDirectory: sandboxDir, Log: p.log, Agent: p.agent, Observe: p.observe}), l, nil
}

// networks has no configuration, and the plugins of the host.
func (w world) networks(layout state.Layout, l *linux.Launcher) cni.Options {
	return cni.Options{PluginDirs: []string{"/usr/lib/cni"}, Dir: layout.Networks(true), Statistics: true, Init: l.Init, Log: slog.New(slog.DiscardHandler),
		Record: func(id container.ID) string { return layout.Container(id).Dir }, Netns: func(id container.ID) string { return layout.Container(id).Netns() }}
}

// fileStore is a store whose images are configurations in files. Get is all that it does for
// a provisioner here.
type fileStore struct {
	store.Store
	dir    string
	layers *layer.Store
}

func (s fileStore) file(name string) string { return filepath.Join(s.dir, "image-"+name+".json") }

func (s fileStore) config(name string) (*image.Config, error) {
	data, err := os.ReadFile(s.file(name))
	if err != nil {
		return nil, fmt.Errorf("image %s: %w: %w", name, container.ErrNotFound, err)
	}
	return image.ParseConfig(data)
}

func (s fileStore) Get(ctx context.Context, img *v1.Image, form layer.Form) (_ *store.Image, err error) {
	name := img.GetDocker().GetName()
	config, err := s.config(name)
	if err != nil {
		return nil, err
	}
	lease, err := s.layers.Lease(ctx)
	if err != nil {
		return nil, err
	}
	absent, err := lease.Hold(ctx, form, config.DiffIDs)
	if err != nil || len(absent) > 0 {
		return nil, errors.Join(err, fmt.Errorf("absent: %v", absent), lease.Release())
	}
	return store.NewImage(store.Record{Reference: name, Layers: config.DiffIDs}, config, lease), nil
}

func (s fileStore) Use(context.Context, *v1.Image, layer.Form, func(store.Record) error) (*store.Image, []layer.Info, error) {
	return nil, nil, nil
}

func (s fileStore) Remove(context.Context, *v1.Image) (err error) { return nil }
func (s fileStore) Reference(img *v1.Image) (string, error)       { return img.GetDocker().GetName(), nil }

// put makes an image of layers, the first of which are in the store already.
func (s fileStore) put(ctx context.Context, name string, run image.RunConfig, base []image.Digest, layers ...[]byte) (err error) {
	lease, err := s.layers.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	config := &image.Config{Run: run, DiffIDs: slices.Clone(base)}
	for _, data := range layers {
		info, err := lease.Unpack(ctx, layer.Tree, "", bytes.NewReader(data))
		if err != nil {
			return err
		}
		config.DiffIDs = append(config.DiffIDs, info.DiffID)
	}
	if err := lease.Commit(ctx); err != nil {
		return err
	}
	data, err := config.MarshalJSON()
	if err != nil {
		return err
	}
	return os.WriteFile(s.file(name), data, 0o600)
}

// header is an entry of a layer.
type header = tar.Header

func dir(name string, mode int64) header {
	return header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}
}

func link(name, target string) header {
	return header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}

func device(name string, major, minor int64) header {
	return header{Typeflag: tar.TypeChar, Name: name, Mode: 0o666, Devmajor: major, Devminor: minor}
}

// file is a regular file whose content is in the header, for pack to take out.
func file(name string, mode int64, content string) header {
	return header{Typeflag: tar.TypeReg, Name: name, Mode: mode, PAXRecords: map[string]string{contentKey: content}}
}

const contentKey = "BERTH.content"

// pack makes a layer.
func pack(entries ...header) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		content := h.PAXRecords[contentKey]
		h.PAXRecords, h.Size, h.ModTime = nil, int64(len(content)), time.Unix(1e9, 0)
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

const (
	passwdFile = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:app:/home/app:/bin/sh\n"
	groupFile  = "root:x:0:\nextra:x:20:app\nusers:x:100:\n"
)

// baseLayer is a busybox without any of the places that berth mounts something on.
var baseLayer = sync.OnceValues(func() ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, err
	}
	home := dir("home/app", 0o700)
	home.Uid, home.Gid = 1000, 100
	entries := []header{
		dir("bin", 0o755), file("bin/busybox", 0o755, string(program)),
		dir("etc", 0o755), file("etc/passwd", 0o644, passwdFile), file("etc/group", 0o644, groupFile),
		dir("root", 0o700), dir("home", 0o755), home, dir("srv", 0o755), dir("tmp", 0o1777),
		file("plain", 0o644, "no program"), file("garbage", 0o755, "\x00\x01\x02 no program"),
		file("lost", 0o755, "#!/no/interpreter\n"), file("script", 0o755, "#!/bin/sh\necho script \"$@\"\n"),
		link("bin/dangling", "/no/target"), device("zero", 1, 5),
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			entries = append(entries, link(path.Join("bin", applet), "busybox"))
		}
	}
	return pack(entries...), nil
})

// closeShared closes the sharedStore, if there is one.
var closeShared = func() error { return nil }

// sharedStore has the base layer, for all tests.
var sharedStore = sync.OnceValues(func() (fileStore, error) {
	dir := filepath.Join(testDir, "store")
	layers, err := layer.Open(dir, layer.DefaultLimits)
	if err != nil {
		return fileStore{}, err
	}
	closeShared = layers.Close
	s := fileStore{dir: dir, layers: layers}
	base, err := baseLayer()
	if err != nil {
		return s, err
	}
	return s, s.put(context.Background(), baseImage, image.RunConfig{}, nil, base)
})

const baseImage = "base"
