//go:build linux

package main

import (
	"path"

	"golang.org/x/sys/unix"

	"berth/launcher/plan"
)

// makeNodes makes device nodes and links.
func (r *root) makeNodes(nodes []plan.Node, links []plan.Link) error {
	defer unix.Umask(unix.Umask(0))
	d := parent{fd: -1}
	defer d.close()
	for _, n := range nodes {
		if err := step("make device "+n.Path, d.node(r, n)); err != nil {
			return err
		}
	}
	for _, l := range links {
		if err := step("link "+l.Path, d.link(r, l)); err != nil {
			return err
		}
	}
	return nil
}

// parent is the directory in which something was made last. Nearly all that is made lies in one.
type parent struct {
	path string
	fd   int
}

func (d *parent) node(r *root, n plan.Node) error {
	if err := d.open(r, n.Path); err != nil {
		return err
	}
	return unix.Mknodat(d.fd, path.Base(n.Path), n.Mode, int(unix.Mkdev(n.Major, n.Minor)))
}

func (d *parent) link(r *root, l plan.Link) error {
	if err := d.open(r, l.Path); err != nil {
		return err
	}
	return unix.Symlinkat(l.Target, d.fd, path.Base(l.Path))
}

func (d *parent) open(r *root, of string) error {
	dir := path.Dir(of)
	if dir == d.path {
		return nil
	}
	fd, err := r.make(dir, true, true)
	if err != nil {
		return err
	}
	d.close()
	d.path, d.fd = dir, fd
	return nil
}

func (d *parent) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
	}
}
