package engine

import (
	"fmt"

	"berth/container"
	"berth/internal/projectquota"
	"berth/isolator/disk/du"
	"berth/isolator/disk/xfs"
	"berth/state"
)

// checkDisk refuses what says nothing about disks.
func (c Config) checkDisk() error {
	if c.ContainerDiskWatchInterval <= 0 {
		return fmt.Errorf("--container_disk_watch_interval: %w: %v is no time between two measurements; the least is a positive one, as 15s", container.ErrInvalid, c.ContainerDiskWatchInterval)
	}
	if c.isolates("disk/du") && c.isolates("disk/xfs") {
		return fmt.Errorf("--isolation: %w: disk/du and disk/xfs are each the one that limits disks: leave one out", container.ErrInvalid)
	}
	if _, err := xfs.ParseRange(c.XFSProjectRange); err != nil {
		return fmt.Errorf("--xfs_project_range: %w", err)
	}
	return nil
}

// checkQuotas refuses disk/xfs where the kernel does not enforce quotas.
func (c Config) checkQuotas(layout state.Layout) error {
	if !c.isolates("disk/xfs") {
		return nil
	}
	if err := projectquota.Check(layout.Work); err != nil {
		return fmt.Errorf("--isolation: disk/xfs: --work_dir: %w; or use disk/du", err)
	}
	return nil
}

func (p parts) diskUsage() du.Options {
	return du.Options{
		Volume: p.images.Layout.PersistentVolume, Interval: p.config.ContainerDiskWatchInterval, EnforceRequests: p.config.EnforceContainerDiskQuota,
		Further: func(id container.ID) []string {
			return []string{p.images.Layout.NestedSandboxes(id), p.networks().Files(id)}
		},
		Log: p.config.log(),
	}
}

func (p parts) diskQuota() xfs.Options {
	projects, _ := xfs.ParseRange(p.config.XFSProjectRange) // checkDisk has looked at it
	return xfs.Options{
		Volume: p.images.Layout.PersistentVolume, Further: func(id container.ID) []string { return []string{p.networks().Files(id)} },
		Projects: projects, Ledger: p.images.Layout.Projects(), WorkDir: p.images.Layout.Work,
		Kill: p.config.XFSKillContainers, Headroom: uint64(p.config.XFSQuotaHeadroom),
		Interval: p.config.ContainerDiskWatchInterval, EnforceRequests: p.config.EnforceContainerDiskQuota,
		Log: p.config.log(), Metrics: p.images.metrics,
	}
}
