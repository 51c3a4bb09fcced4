package cgroup

import (
	"path"

	"berth/container"
)

// Groups finds the cgroup of a container: what isolators need of a launcher.
type Groups interface {
	// Group returns the cgroup. ErrNotFound: the container was never forked.
	Group(id container.ID) (*Group, error)
}

// DirOf returns the directory of a container for a controller.
func DirOf(groups Groups, id container.ID, controller string) (Dir, error) {
	group, err := groups.Group(id)
	if err != nil {
		return Dir{}, err
	}
	return group.Dir(controller)
}

// Setting is what a file is to say.
type Setting struct{ File, Value string }

// Set writes files, in order, up to the first error.
func (d Dir) Set(settings []Setting) error {
	for _, s := range settings {
		if err := d.Write(s.File, s.Value); err != nil {
			return err
		}
	}
	return nil
}

// Has reports whether this kernel has a file, of a cgroup that exists.
func (d Dir) Has(file string) bool { return exists(d.path + "/" + file) }

// Leaf returns the cgroup within, in which a v2 cgroup of a Group has its processes.
func (d Dir) Leaf() Dir { return Dir{path: d.path + "/" + leafName, version: d.version} }

// Above returns the directory that the cgroup lies in.
func (d Dir) Above() Dir { return Dir{path: path.Dir(d.path), version: d.version} }
