//go:build linux

package bench

import (
	"context"
	"errors"
	"testing"

	"berth/container"
	"berth/engine"
	"berth/internal/mount/mounttest"
)

// BenchmarkRecover is about the provisioner of a program that starts while there are
// root filesystems of 1000 containers.
func BenchmarkRecover(b *testing.B) {
	d := newDebian(b, "ext4", "overlay")
	const there = 1000
	recoverAs := func(known bool, before func() error) func(*testing.B) (work, func()) {
		return func(b *testing.B) (work, func()) {
			if err := atOnce(there, d.provision); err != nil {
				b.Fatal(err)
			}
			if err := before(); err != nil {
				b.Fatal(err)
			}
			clean := func() {
				if !known {
					return
				}
				if err := atOnce(there, d.destroy); err != nil {
					b.Fatal(err)
				}
			}
			return times(1, func() error { return d.reopenAndRecover(func(container.ID) bool { return known }) }), clean
		}
	}
	contest{title: "Recover 1000 containers", disk: d.disk, contenders: []contender{
		{"all known: all stay", nil, recoverAs(true, func() error { return nil })},
		{"none known: all are destroyed", nil, recoverAs(false, func() error { return nil })},
		{"none known, after a reboot", nil, recoverAs(false, func() error { return mounttest.DetachBelow(d.disk + "/work") })},
	}}.run(b)
}

// reopenAndRecover is what the next program does.
func (d *debian) reopenAndRecover(known func(container.ID) bool) error {
	next, err := engine.OpenImages(context.Background(), d.config)
	if err != nil {
		return err
	}
	return errors.Join(next.Provisioner.Recover(context.Background(), known), next.Close())
}
