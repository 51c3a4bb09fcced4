package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"berth/internal/cgroup"
	"berth/provisioner/backend"
)

// Info is what a host can do.
type Info struct {
	Kernel     string    `json:"kernel"`
	WorkDir    string    `json:"work_dir"`
	FileSystem string    `json:"file_system"` // of WorkDir
	Backends   []Ability `json:"backends"`
	Isolators  []Ability `json:"isolators"`
	Networks   []Ability `json:"networks"` // that containers can name
}

// Ability is whether something works.
type Ability struct {
	Name    string `json:"name"`
	Works   bool   `json:"works"`
	Reason  string `json:"reason,omitempty"` // why not
	Needs   string `json:"needs,omitempty"`  // of the host and of other isolators
	Default bool   `json:"default,omitempty"`
	Means   string `json:"means,omitempty"` // by which it works, if they are not the usual ones

	// Of a backend: whether its root filesystems can be those of user namespaces, and why not.
	UserNamespaces       bool   `json:"user_namespaces,omitempty"`
	UserNamespacesReason string `json:"user_namespaces_reason,omitempty"`
}

// Inspect finds out what the host can do, by trying where it can.
func Inspect(ctx context.Context, c Config) (info *Info, err error) {
	images, err := OpenImages(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	info = &Info{WorkDir: images.Layout.Work, FileSystem: fileSystem(images.Layout.Work)}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	info.Kernel = unix.ByteSliceToString(name.Release[:])
	info.Backends = images.backendAbilities(ctx, c.ImageProvisionerBackend)
	cgroups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	c.Isolation = expandCgroups(c.Isolation, cgroups)
	settings, err := c.cgroups()
	if err != nil {
		return nil, err
	}
	p := parts{config: c, cgroups: cgroups, images: images, settings: settings}
	if info.Networks, err = p.networkAbilities(ctx); err != nil {
		return nil, err
	}
	info.Isolators, err = p.isolatorAbilities(ctx)
	for i := range info.Isolators {
		if info.Isolators[i].Name == "namespaces/user" {
			info.Isolators[i] = info.usernsAbility(c)
			continue
		}
		info.Isolators[i].Needs = needsOf(info.Isolators[i].Name)
	}
	return info, err
}

// backendAbilities tries every backend. The default is the one that was asked for, or the
// first that works, in the order of the table.
func (i *Images) backendAbilities(ctx context.Context, asked string) (abilities []Ability) {
	found := asked != ""
	for _, b := range backends {
		a := Ability{Name: b.name, Works: true, Default: b.name == asked}
		if err := i.probeBackend(ctx, b.name); err != nil {
			a.Works, a.Reason = false, err.Error()
		} else if e, ok := i.Provisioner.Backends[b.name].(backend.Explainer); ok {
			a.Means = e.Means()
		}
		if err := i.probeMapped(ctx, b.name); err != nil {
			a.UserNamespacesReason = err.Error()
		} else {
			a.UserNamespaces = true
		}
		if !found && a.Works && b.byDefault {
			a.Default, found = true, true
		}
		abilities = append(abilities, a)
	}
	return abilities
}

var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

func fileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return (&os.PathError{Op: "statfs", Path: dir, Err: err}).Error()
	}
	if name, ok := fileSystems[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("type 0x%x", st.Type)
}
