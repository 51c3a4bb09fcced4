package isolator

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// Disk is space of the host that a container fills: what it writes to its sandbox and its
// root filesystem, or one of its persistent volumes.
type Disk struct {
	// Directories on the host, of which none lies in another.
	Directories []string
	// Limit in bytes; 0: there is none.
	Limit uint64
	// Enforced: exceeding the limit is the end of the container. What a request for
	// resources says is an amount to account for, unless --enforce_container_disk_quota.
	Enforced bool
	// Persistence is that of a persistent volume; nil: the container's own space.
	Persistence *v1.Resource_DiskInfo_Persistence
}

const (
	mib = 1 << 20
	// Below it not even what the container says fits, and the directories are part of it.
	minDisk = 1
	maxDisk = 1 << 40 // in MiB, more than a file system has
)

// Disks returns those of a container, its own space first; volume tells the directory of a
// persistent volume. The limit of its own is "disk" of the limits, in MiB, else the sum of
// the resources "disk" that do not persist. The error is of class ErrInvalid, for
// amounts that are none.
func Disks(config *v1.ContainerConfig, volume func(role, id string) string) ([]Disk, error) {
	own, err := ownDisk(config)
	if err != nil {
		return nil, err
	}
	disks := []Disk{own}
	volumes, err := PersistentVolumes(config)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		limit, err := requestedDisk(v.Amount)
		if err != nil {
			return nil, fmt.Errorf("persistent volume %q of role %q: %w", v.ID, v.Role, err)
		}
		disks = append(disks, Disk{Directories: []string{volume(v.Role, v.ID)}, Limit: limit, Persistence: v.Persistence})
	}
	return disks, nil
}

func ownDisk(config *v1.ContainerConfig) (d Disk, err error) {
	if directory := config.GetDirectory(); directory != "" {
		d.Directories = append([]string{directory}, config.GetEphemeralVolumes()...)
	}
	if limit, limited := config.GetLimits()["disk"]; limited {
		if math.IsInf(limit.GetValue(), 1) {
			return d, nil
		}
		d.Enforced = true
		d.Limit, err = diskLimit(limit.GetValue())
		return d, err
	}
	var sum float64
	for _, r := range config.GetResources() {
		if r.GetName() == "disk" && r.GetDisk().GetPersistence() == nil {
			sum += r.GetScalar().GetValue()
		}
	}
	d.Limit, err = requestedDisk(sum)
	return d, err
}

// requestedDisk is the limit that comes of a request: nothing was said of the disk, if that
// is zero.
func requestedDisk(amount float64) (uint64, error) {
	if amount == 0 {
		return 0, nil
	}
	return diskLimit(amount)
}

func diskLimit(amount float64) (uint64, error) {
	// Written so that NaN is refused.
	if !(amount >= minDisk && amount <= maxDisk) {
		return 0, fmt.Errorf("disk of %v MiB: %w: it must be from %d to %d MiB", amount, container.ErrInvalid, minDisk, maxDisk)
	}
	return uint64(amount * mib), nil
}

// Report adds the disk to the statistics of its container; used is in bytes, nil: that is not
// known.
func (d Disk) Report(used *uint64, to *v1.ResourceStatistics) {
	s := &v1.DiskStatistics{Persistence: d.Persistence, UsedBytes: used}
	if d.Limit > 0 {
		s.LimitBytes = proto.Uint64(d.Limit)
	}
	to.DiskStatistics = append(to.DiskStatistics, s)
	if d.Persistence == nil {
		to.DiskUsedBytes, to.DiskLimitBytes = s.UsedBytes, s.LimitBytes
	}
}

// Exceeded is how a container ends that uses more of the disk than its limit.
func (d Disk) Exceeded(used uint64) *container.Limitation {
	where := "disk usage"
	if d.Persistence != nil {
		where = fmt.Sprintf("disk usage of the persistent volume %q", d.Persistence.GetId())
	}
	return &container.Limitation{
		Reason: container.ReasonLimitationDisk, Resource: "disk", Used: float64(used) / mib,
		Message: fmt.Sprintf("%s of %.1f MiB exceeds the limit of %.1f MiB", where, float64(used)/mib, float64(d.Limit)/mib),
	}
}
