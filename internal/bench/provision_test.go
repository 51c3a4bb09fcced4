//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/internal/mount"
	"berth/internal/testrig"
	"berth/provisioner/backend"
	"berth/provisioner/backend/overlay"
	"berth/provisioner/store"
	"berth/state"
)

// debian is the Debian image in a store of berth, as programs that embed berth have it.
type debian struct {
	*engine.Images
	disk   string // a new file system, with the store
	config engine.Config
	image  *v1.Image
	record store.Record
}

func newDebian(b *testing.B, fstype, backend string) *debian {
	b.Helper()
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.DebianImage(b, reg, "debian:1")
	img := &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String(reg.Direct() + "/debian:1")}}
	return pulled(b, img, testrig.LoopFS(b, fstype, 8<<10), backend)
}

// pulled pulls an image into a store of its own on the disk.
func pulled(b *testing.B, img *v1.Image, disk, backend string) *debian {
	b.Helper()
	d := &debian{disk: disk, image: img, config: engine.DefaultConfig()}
	dir := filepath.Join(disk, backend)
	d.config.WorkDir, d.config.RuntimeDir, d.config.ImageProvisionerBackend = dir+"/work", tmpfs(b), backend
	var err error
	if d.Images, err = engine.OpenImages(b.Context(), d.config); err != nil {
		b.Fatal(err)
	}
	if d.record, _, err = d.Pull(b.Context(), d.image); err != nil {
		b.Fatal(err)
	}
	// A store reads what has changed within the last second anew each time.
	time.Sleep(time.Second)
	b.Cleanup(func() {
		detach(b, dir)
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	})
	return d
}

// layers are those of the image, as a backend takes them.
func (d *debian) layers(b *testing.B) (all []backend.Layer) {
	b.Helper()
	form := d.Provisioner.Form()
	for _, id := range d.record.Layers {
		info, err := d.Layers.Info(id, form)
		if err != nil {
			b.Fatal(err)
		}
		l := backend.Layer{Path: d.Layers.Path(id, form), Whiteouts: info.Whiteouts > 0}
		for _, name := range info.Implied {
			l.Implied = append(l.Implied, string(name))
		}
		all = append(all, l)
	}
	return all
}

// numbered is the n-th container of a benchmark.
func numbered(n int) container.ID {
	id, err := container.ParseID("c" + strconv.Itoa(n))
	if err != nil {
		panic(err)
	}
	return id
}

func (d *debian) provision(n int) error {
	_, err := d.Provisioner.Provision(context.Background(), numbered(n), d.image)
	return err
}

func (d *debian) destroy(n int) error {
	existed, err := d.Provisioner.Destroy(context.Background(), numbered(n))
	if err == nil && !existed {
		err = fmt.Errorf("destroy %s: there was nothing", numbered(n))
	}
	return err
}

// BenchmarkProvisionDestroy is about the root filesystem of an image that is in the
// store, made and removed again with the overlay backend: by the provisioner, with its
// leases and records; by the backend alone; and by the system calls that nobody can do
// without (bareOverlay).
func BenchmarkProvisionDestroy(b *testing.B) {
	d := newDebian(b, "ext4", "overlay")
	layers := d.layers(b)
	const per = 50
	always := func(do ...func() error) func(*testing.B) (work, func()) {
		return func(*testing.B) (work, func()) {
			return times(per, func() error {
				for _, step := range do {
					if err := step(); err != nil {
						return err
					}
				}
				return nil
			}), nothing
		}
	}
	of, backendDir := overlay.New(), filepath.Join(d.disk, "backend")
	rootfs := state.Rootfs(backendDir, "rootfs")
	placed, least := inTheLayout(layers, d.disk, "bare"), inFourDirectories(layers, d.disk, "least")
	contest{title: "Provision and destroy a root filesystem of 7 layers with overlay", disk: d.disk, per: per, rounds: 25, contenders: []contender{
		{"berth", nil, always(func() error { return d.provision(0) }, func() error { return d.destroy(0) })},
		{"its backend alone", nil, always(func() error {
			err := of.Provision(context.Background(), layers, rootfs, backendDir)
			return err
		}, func() error {
			_, err := of.Destroy(context.Background(), rootfs, backendDir)
			return err
		})},
		{"bare system calls, same directories", nil, always(placed.provision, placed.destroy)},
		{"bare system calls, four directories", nil, always(least.provision, least.destroy)},
	}}.run(b)
}

// bareOverlay is the least that makes the same overlay of the same layers with the same
// options, and removes it: its directories, the mount (fsopen, an fsconfig for each
// option, fsmount, move_mount), the unmount, and the removal of all that is there then.
// It keeps no record, so that nobody would find what a kill leaves; it holds no layer, so
// that any sweep may take them; it gives the root no owner, mode and propagation, and it
// does not look at what it removes.
type bareOverlay struct {
	directories  []string // those above first
	rootfs, work string
	options      []mount.Option
}

// inTheLayout has the directories of package state.
func inTheLayout(layers []backend.Layer, disk, name string) bareOverlay {
	container := filepath.Join(disk, name)
	rootfs := state.Rootfs(filepath.Join(container, "backends", "overlay"), "rootfs")
	return newBareOverlay(layers, container, rootfs, state.Scratch(filepath.Join(container, "backends", "overlay"), rootfs))
}

// inFourDirectories has the least that an overlay can do with.
func inFourDirectories(layers []backend.Layer, disk, name string) bareOverlay {
	dir := filepath.Join(disk, name)
	return newBareOverlay(layers, dir, filepath.Join(dir, "rootfs"), dir)
}

func newBareOverlay(layers []backend.Layer, dir, rootfs, scratch string) bareOverlay {
	o := mount.Overlay{Upper: filepath.Join(scratch, "upper"), Work: filepath.Join(scratch, "work")}
	for _, l := range slices.Backward(layers) {
		o.Lowers = append(o.Lowers, l.Path)
	}
	bare := bareOverlay{rootfs: rootfs, work: o.Work, options: o.Options()}
	for _, leaf := range []string{rootfs, o.Upper, o.Work} {
		at := len(bare.directories)
		for ; leaf != filepath.Dir(dir) && !slices.Contains(bare.directories, leaf); leaf = filepath.Dir(leaf) {
			bare.directories = slices.Insert(bare.directories, at, leaf)
		}
	}
	return bare
}

func (o bareOverlay) provision() error {
	for _, dir := range o.directories {
		if err := unix.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("mkdir %s: %w", dir, err)
		}
	}
	if err := o.mount(o.rootfs); err != nil {
		return fmt.Errorf("mount %s: %w", o.rootfs, err)
	}
	return nil
}

func (o bareOverlay) destroy() error {
	if err := unix.Unmount(o.rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("umount %s: %w", o.rootfs, err)
	}
	// What is below work the kernel has made, for the option "volatile".
	if err := unix.Unlink(o.work + "/work/incompat/volatile/dirty"); err != nil {
		return fmt.Errorf("unlink the mark of the volatile overlay %s: %w", o.rootfs, err)
	}
	for _, dir := range []string{o.work + "/work/incompat/volatile", o.work + "/work/incompat", o.work + "/work"} {
		if err := unix.Rmdir(dir); err != nil {
			return fmt.Errorf("rmdir %s: %w", dir, err)
		}
	}
	for _, dir := range slices.Backward(o.directories) {
		if err := unix.Rmdir(dir); err != nil {
			return fmt.Errorf("rmdir %s: %w", dir, err)
		}
	}
	return nil
}

func (o bareOverlay) mount(target string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, option := range o.options {
		if option.Value == "" {
			err = unix.FsconfigSetFlag(fs, option.Key)
		} else {
			err = unix.FsconfigSetString(fs, option.Key, option.Value)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mounted, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mounted)
	return unix.MoveMount(mounted, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// BenchmarkProvisionDestroyEROFS is the same with the erofs backend, for a root filesystem
// that is the only one with its layers: they are mounted and unmounted with it.
func BenchmarkProvisionDestroyEROFS(b *testing.B) {
	d := newDebian(b, "ext4", "erofs")
	bare := d.bareErofs(b)
	d.contestErofs(b, "Provision and destroy a root filesystem of 7 layers with erofs",
		bare.mountLayers, bare.overlay.provision, bare.overlay.destroy, bare.unmountLayers)
}

// BenchmarkProvisionDestroySharedEROFS is the same when another root filesystem has the layers.
func BenchmarkProvisionDestroySharedEROFS(b *testing.B) {
	d := newDebian(b, "ext4", "erofs")
	bare := d.bareErofs(b)
	if err := errors.Join(d.provision(1), bare.mountLayers()); err != nil {
		b.Fatal(err)
	}
	d.contestErofs(b, "Provision and destroy a root filesystem of 7 layers that another one has, with erofs",
		bare.overlay.provision, bare.overlay.destroy)
	if err := errors.Join(d.destroy(1), bare.unmountLayers()); err != nil {
		b.Fatal(err)
	}
}

// contestErofs has berth compete with system calls.
func (d *debian) contestErofs(b *testing.B, title string, bare ...func() error) {
	const per = 20
	each := func(steps ...func() error) func(*testing.B) (work, func()) {
		return func(*testing.B) (work, func()) {
			return times(per, func() error {
				for _, step := range steps {
					if err := step(); err != nil {
						return err
					}
				}
				return nil
			}), nothing
		}
	}
	contest{title: title, disk: d.disk, per: per, rounds: 25, contenders: []contender{
		{"berth", nil, each(func() error { return d.provision(0) }, func() error { return d.destroy(0) })},
		{"bare system calls", nil, each(bare...)},
	}}.run(b)
}

// bareErofs is bareOverlay above layers that are mounted for it, at directories that stay.
type bareErofs struct {
	overlay bareOverlay
	layers  []mount.EROFS
	points  []string
}

func (d *debian) bareErofs(b *testing.B) (bare bareErofs) {
	b.Helper()
	var mounted []backend.Layer
	for i, l := range d.layers(b) {
		bare.layers = append(bare.layers, mount.EROFS{Index: l.Path + "/index", Device: l.Path + "/tar"})
		bare.points = append(bare.points, filepath.Join(d.disk, "bare-mounts", strconv.Itoa(i)))
		mounted = append(mounted, backend.Layer{Path: bare.points[i]})
		if err := os.MkdirAll(bare.points[i], 0o700); err != nil {
			b.Fatal(err)
		}
	}
	bare.overlay = inTheLayout(mounted, d.disk, "bare")
	return bare
}

func (e bareErofs) mountLayers() error {
	for i, l := range e.layers {
		made, err := l.Mount()
		if err != nil {
			return err
		}
		if err := errors.Join(made.Attach(e.points[i]), made.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (e bareErofs) unmountLayers() error {
	for _, point := range e.points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("umount %s: %w", point, err)
		}
	}
	return nil
}

// BenchmarkParallel tells whether a container takes longer when there are more of them.
func BenchmarkParallel(b *testing.B) {
	d := newDebian(b, "ext4", "overlay")
	layers := d.layers(b)
	const most = 1000
	var contenders []contender
	for _, n := range []int{most, 100, 10, 1} {
		contenders = append(contenders, contender{fmt.Sprintf("berth, %d at a time", n), nil, func(*testing.B) (work, func()) {
			return times(most/n, func() error { return atOnce(n, d.provision, d.destroy) }), nothing
		}})
	}
	for _, n := range []int{most, 1} {
		var bare []bareOverlay
		for i := range n {
			bare = append(bare, inTheLayout(layers, d.disk, "bare-"+strconv.Itoa(i)))
		}
		provision, destroy := func(i int) error { return bare[i].provision() }, func(i int) error { return bare[i].destroy() }
		contenders = append(contenders, contender{fmt.Sprintf("bare system calls, %d at a time", n), nil, func(*testing.B) (work, func()) {
			return times(most/n, func() error { return atOnce(n, provision, destroy) }), nothing
		}})
	}
	contest{title: "Provision all, then destroy all: time for each of 1000", disk: d.disk, per: most, contenders: contenders}.run(b)
}

// atOnce does one thing for n containers in parallel, then the next.
func atOnce(n int, steps ...func(n int) error) error {
	for _, step := range steps {
		var group errgroup.Group
		for i := range n {
			group.Go(func() error { return step(i) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}
