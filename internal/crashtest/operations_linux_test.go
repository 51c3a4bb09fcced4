package crashtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/image"
	"berth/provisioner"
)

// operation is something that berth does.
type operation struct {
	name    string
	backend string
	// variation says that most of its steps are those of another operation.
	variation bool
	// ready makes what the operation needs, of whatever an earlier one has left.
	ready func(s *scene)
	// mends says which faults there are before it.
	mends []string
	// run is the operation. It runs in this process or in another one.
	run func(ctx context.Context, e *engine.Engine, p place) error
	// owed is what the caller owes after an error.
	owed func(s *scene)
	// done checks what an error of nil proves.
	done func(s *scene)
	// places is how many named places it goes through, at least.
	places int
}

var operations = []operation{
	{
		name: "pull", backend: "erofs", places: 8,
		ready: func(s *scene) { s.absent("one") },
		run:   pull("one"),
		done:  func(s *scene) { s.wantImage("one", true) },
	},
	{
		name: "pull an archive", backend: "overlay", variation: true, places: 8,
		ready: func(s *scene) { s.absent("archive") },
		run:   pull("archive"),
		done:  func(s *scene) { s.wantImage("archive", true) },
	},
	{
		name: "pull an Appc image", backend: "erofs", variation: true, places: 11,
		ready: func(s *scene) { s.absent("appc") },
		run:   pull("appc"),
		done:  func(s *scene) { s.wantImage("appc", true) },
	},
	{
		name: "pull a manifest of schema 1", backend: "overlay", variation: true, places: 8,
		ready: func(s *scene) { s.absent("schema 1") },
		run:   pull("schema 1"),
		// A layer that an attempt before had made visible, and that cannot be looked at just
		// now, is replaced: it is not known to be there before it is unpacked.
		done: func(s *scene) { s.wantImage("schema 1", true); s.sweep() },
	},
	{
		name: "pull a tag that has moved", backend: "overlay", variation: true, places: 8,
		ready: func(s *scene) {
			s.moved.Store(false)
			s.present("moving")
			s.absent("two")
			s.sweep()
			s.moved.Store(true)
		},
		run: func(ctx context.Context, e *engine.Engine, p place) error {
			_, _, err := e.Pull(ctx, p.again("moving"))
			return err
		},
		done: func(s *scene) { s.wantLayersOf("moving", "two") },
	},
	{
		name: "provision", backend: "erofs", places: 3,
		ready: func(s *scene) { s.present("one"); s.noContainer() },
		run:   provisionOne,
		owed:  func(s *scene) { s.noContainer() },
		done:  func(s *scene) { s.wantContainer(); s.noContainer() },
	},
	{
		name: "provision a copy", backend: "copy", places: 3,
		ready: func(s *scene) { s.present("one"); s.noContainer() },
		run:   provisionOne,
		owed:  func(s *scene) { s.noContainer() },
		done:  func(s *scene) { s.wantContainer(); s.noContainer() },
	},
	{
		// As an agent does it, whose recovery knows which containers it has.
		name: "provision for an agent", backend: "overlay", variation: true, places: 11,
		ready: func(s *scene) { s.absent("one"); s.noContainer() },
		run: func(ctx context.Context, e *engine.Engine, p place) error {
			_, err := e.Images.Provisioner.Provision(ctx, theContainer, p.image("one"))
			return err
		},
		owed: func(s *scene) { s.noContainer() },
		done: func(s *scene) { s.wantContainer(); s.noContainer() },
	},
	{
		name: "destroy", backend: "erofs", places: 3,
		ready: func(s *scene) { s.present("one"); s.provisioned("one") },
		run:   destroyOne,
		done:  destroyed,
	},
	{
		name: "destroy a copy", backend: "copy", places: 3,
		ready: func(s *scene) { s.present("one"); s.provisioned("one") },
		run:   destroyOne,
		done:  destroyed,
	},
	{
		name: "rmi", backend: "erofs", variation: true, places: 6,
		ready: func(s *scene) { s.present("one"); s.present("two") },
		run: func(ctx context.Context, e *engine.Engine, p place) error {
			_, err := e.Images.Provisioner.Remove(ctx, p.image("one"))
			if errors.Is(err, container.ErrNotFound) { // by an earlier attempt, which was not able to sweep
				_, err = e.Images.Provisioner.Sweep(ctx)
			}
			return err
		},
		done: func(s *scene) { s.wantImage("one", false); s.wantImage("two", true) },
	},
	{
		name: "prune", backend: "erofs", places: 6,
		ready: func(s *scene) {
			s.present("one")
			s.present("two")
			s.present("three")
			s.provisioned("two")
			s.interrupted()
		},
		run: func(ctx context.Context, e *engine.Engine, p place) error {
			_, err := e.Images.Provisioner.Prune(ctx, provisioner.PruneOptions{Excluded: []*v1.Image{p.image("three")}})
			return err
		},
		done: func(s *scene) {
			s.wantImage("one", false)
			s.wantImage("two", true)
			s.wantImage("three", true)
			s.noContainer()
			if _, err := os.Stat(s.abandoned()); !errors.Is(err, os.ErrNotExist) {
				s.Errorf("an interrupted download is still there: %v", err)
			}
		},
	},
	{
		name: "repair", backend: "overlay", mends: []string{treeDamaged}, places: 8,
		ready: func(s *scene) { s.present("one"); s.damage("one") },
		run:   repair,
		done:  func(s *scene) { s.wantImage("one", true) },
	},
	{
		name: "repair a tar", backend: "erofs", variation: true, mends: []string{tarDamaged}, places: 8,
		ready: func(s *scene) { s.present("one"); s.damage("one") },
		run:   repair,
		done:  func(s *scene) { s.wantImage("one", true) },
	},
	{
		name: "check", backend: "erofs", variation: true,
		ready: func(s *scene) { s.present("one") },
		run: func(ctx context.Context, e *engine.Engine, p place) error {
			_, err := e.Images.Provisioner.Check(ctx)
			return err
		},
		done: func(s *scene) { s.wantImage("one", true) },
	},
	{
		name: "recover", backend: "erofs", variation: true, places: 3,
		ready: func(s *scene) { s.present("one"); s.noContainer(); s.leftOvers("one") },
		run: func(ctx context.Context, e *engine.Engine, p place) error {
			return e.Recover(ctx)
		},
		done: destroyed,
	},
}

func findOperation(name string) (operation, error) {
	at := slices.IndexFunc(operations, func(op operation) bool { return op.name == name })
	if at < 0 {
		return operation{}, fmt.Errorf("operation %q: %w", name, container.ErrNotFound)
	}
	return operations[at], nil
}

func pull(name string) func(context.Context, *engine.Engine, place) error {
	return func(ctx context.Context, e *engine.Engine, p place) error {
		_, _, err := e.Pull(ctx, p.image(name))
		return err
	}
}

func provisionOne(ctx context.Context, e *engine.Engine, p place) error {
	_, err := e.Provision(ctx, theContainer, p.image("one"))
	return err
}

func destroyOne(ctx context.Context, e *engine.Engine, _ place) error {
	_, err := e.Destroy(ctx, theContainer)
	return err
}

func repair(ctx context.Context, e *engine.Engine, _ place) error {
	_, err := e.Images.Provisioner.Repair(ctx)
	return err
}

// destroyed also lets recovery remove an empty directory, which Destroy may leave to it.
func destroyed(s *scene) {
	s.Helper()
	s.recovers()
	s.wantNoContainer()
}

// What check says when one of damageable has another byte.
const (
	treeDamaged  = `"data": its content has changed`
	tarDamaged   = "its tar " // has another digest, or is none any more
	indexDamaged = "its index has changed"
)

// damageable are the files of a layer, by what check says when one of them has another byte.
var damageable = map[string]string{treeDamaged: "tree/fs/data", tarDamaged: "erofs/tar", indexDamaged: "erofs/index"}

// layerFile finds a file in the layers of an image.
func layerFile(p place, layers []image.Digest, name string) (string, error) {
	for _, id := range layers {
		path := p.store("layers", id.String(), name)
		if _, err := os.Lstat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w in the layers %s", name, os.ErrNotExist, layers)
}

// flip changes one byte of a file and nothing else that one can see, durably.
func flip(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	middle, at := make([]byte, 1), info.Size()/2
	if _, err := file.ReadAt(middle, at); err != nil {
		return err
	}
	middle[0] ^= 1
	if _, err := file.WriteAt(middle, at); err != nil {
		return err
	}
	return errors.Join(os.Chtimes(path, info.ModTime(), info.ModTime()), file.Sync())
}

func rootfsOf(p place, id container.ID) (string, error) {
	found, err := filepath.Glob(filepath.Join(p.containers(), id.Value(), "backends/*/rootfses/*"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%s has the root filesystems %q, not one", id, found)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}
