package copy

import (
	"fmt"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"berth/internal/attributes"
	"berth/internal/disk"
)

// source is a layer.
type source struct {
	number    int // of all, the base is 1
	root      int
	whiteouts bool
	implied   map[string]bool // directories that look as lower layers have them
}

// directory is one of the root filesystem, and what the layers have of it.
type directory struct {
	path   string // below the root
	target int
	layers []*source // that have it, topmost first
	parts  []part    // of those whose entries are seen: down to one where it is opaque
}

// part is a directory of one layer.
type part struct {
	layer *source
	fd    int
}

// entry is what is seen by one name.
type entry struct {
	name   string
	kind   uint8     // as in disk.Dirent
	part   part      // the topmost that has it
	layers []*source // of a directory: all that add to it
	whole  bool      // nothing below adds to it
}

// open opens the directory at a path, which the layers have.
func open(root int, at string, layers []*source) (*directory, error) {
	target, err := openBelow(root, at)
	if err != nil {
		return nil, err
	}
	d := &directory{path: at, target: target, layers: layers}
	for _, l := range layers {
		opaque, err := d.add(l)
		if err != nil {
			d.close()
			return nil, fmt.Errorf("layer %d: %w", l.number, err)
		}
		if opaque {
			break
		}
	}
	return d, nil
}

// add adds what a layer has, and reports whether that hides what lower layers have.
func (d *directory) add(l *source) (opaque bool, err error) {
	fd, err := openBelow(l.root, d.path)
	if err != nil {
		return false, err
	}
	d.parts = append(d.parts, part{l, fd})
	if !l.whiteouts {
		return false, nil
	}
	return attributes.IsOpaque(attributes.Open(fd))
}

// openBelow opens a directory by its path below root, wherever links in it would lead.
func openBelow(root int, at string) (int, error) {
	return disk.Openat2(root, at, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

func (d *directory) close() {
	unix.Close(d.target)
	for _, p := range d.parts {
		unix.Close(p.fd)
	}
}

// join is the path of an entry.
func (d *directory) join(e entry) string { return path.Join(d.path, e.name) }

// entries merges what the layers have. A whiteout is an entry, too.
func (d *directory) entries() (all []entry, err error) {
	seen := make(map[string]int) // where in all
	for _, p := range d.parts {
		dirents, err := list(p.fd)
		if err != nil {
			return nil, fmt.Errorf("list, layer %d: %w", p.layer.number, err)
		}
		for _, e := range dirents {
			at, ok := seen[e.Name]
			if !ok {
				at = len(all)
				seen[e.Name] = at
				all = append(all, entry{name: e.Name, kind: e.Kind, part: p})
			}
			switch one := &all[at]; {
			case one.whole:
			case e.Kind == unix.DT_DIR:
				one.layers = append(one.layers, p.layer)
			default:
				one.whole = true
			}
		}
	}
	return all, nil
}

// list lists a directory. Every entry has a kind.
func list(fd int) (all []disk.Dirent, err error) {
	buffer := make([]byte, 32<<10)
	for {
		some, err := disk.ReadDirents(fd, buffer)
		if err != nil || len(some) == 0 {
			return all, err
		}
		for _, e := range some {
			if e.Kind == unix.DT_UNKNOWN {
				var st unix.Stat_t
				if err := disk.Fstatat(fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
					return nil, err
				}
				e.Kind = uint8(st.Mode >> 12) // as readdir(3) has it
			}
			all = append(all, e)
		}
	}
}

// finish gives the directory the attributes that the topmost layer gives it. A layer that has
// it only because names go through it says nothing, unless it is the lowest.
func (d *directory) finish() error {
	says := slices.IndexFunc(d.layers, func(l *source) bool { return !l.implied[d.path] })
	if says < 0 {
		says = len(d.layers) - 1
	}
	if says < len(d.parts) {
		return attributes.Copy(attributes.Open(d.parts[says].fd), attributes.Open(d.target))
	}
	// An opaque directory hides what lower layers have in it, not what it looks like there.
	fd, err := openBelow(d.layers[says].root, d.path)
	if err != nil {
		return fmt.Errorf("layer %d: %w", d.layers[says].number, err)
	}
	defer unix.Close(fd)
	return attributes.Copy(attributes.Open(fd), attributes.Open(d.target))
}
