package engine

import (
	"context"
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
}

// Ability is whether something works.
type Ability struct {
	Name    string `json:"name"`
	Works   bool   `json:"works"`
	Reason  string `json:"reason,omitempty"` // why not
	Default bool   `json:"default,omitempty"`
}

// Inspect finds out what the host can do, by trying where it can.
func Inspect(ctx context.Context, c Config) (*Info, error) {
	images, err := OpenImages(ctx, c)
	if err != nil {
		return nil, err
	}
	info := &Info{WorkDir: images.Layout.Work, FileSystem: fileSystem(images.Layout.Work)}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	info.Kernel = unix.ByteSliceToString(name.Release[:])
	for _, b := range backends {
		a := Ability{Name: b.name, Default: b.name == images.Provisioner.Backend}
		if err := backend.Probe(ctx, b.make(), images.Layout.Provisioner().Root()); err != nil {
			a.Reason = err.Error()
		}
		a.Works = a.Reason == ""
		info.Backends = append(info.Backends, a)
	}
	cgroups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	for _, i := range isolators {
		a := Ability{Name: i.name, Default: c.isolates(i.name), Works: true}
		if i.controller != "" {
			if _, ok := cgroups.Version(i.controller); !ok {
				a.Works, a.Reason = false, fmt.Sprintf("the cgroup controller %q is not mounted", i.controller)
			}
		}
		info.Isolators = append(info.Isolators, a)
	}
	return info, nil
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
