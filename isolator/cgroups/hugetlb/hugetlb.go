//go:build linux

// Package hugetlb is the isolator cgroups/hugetlb: the limits hugetlb.SIZE, with SIZE as
// the kernel writes it ("2MB"), bound what a container has of huge pages
// (Documentation/admin-guide/cgroup-v1/hugetlb.rst and cgroup-v2.rst, "HugeTLB").
package hugetlb

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/resources"
	"berth/isolator"
)

const (
	controller = "hugetlb"
	prefix     = "hugetlb." // of the names of limits, and of files
	mib        = 1 << 20
	most       = 1 << 62

	pages = "/sys/kernel/mm/hugepages"
)

// Isolator implements isolator.Isolator, isolator.Enforcer and isolator.Updater.
type Isolator struct {
	groups cgroup.Groups
}

// New returns the isolator.
func New(groups cgroup.Groups) *Isolator { return &Isolator{groups} }

// Supports implements isolator.Supporter: what shares the cgroups of its parent has its
// limits there.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	sizes, err := sizes()
	if err == nil {
		err = check(c, sizes)
	}
	if err != nil {
		return nil, err
	}
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

// sizes returns those of this kernel's huge pages, as the cgroup's files are named.
func sizes() (names []string, err error) {
	entries, err := os.ReadDir(pages)
	if err != nil {
		return nil, fmt.Errorf("cgroups/hugetlb: %w: the kernel needs CONFIG_HUGETLBFS: %w", container.ErrNotSupported, err)
	}
	for _, entry := range entries {
		text := strings.TrimSuffix(strings.TrimPrefix(entry.Name(), "hugepages-"), "kB")
		if kib, err := strconv.ParseUint(text, 10, 54); err == nil {
			names = append(names, name(kib))
		}
	}
	return names, nil
}

// name is that of a size in KiB (mem_fmt in mm/hugetlb_cgroup.c).
func name(kib uint64) string {
	switch {
	case kib >= 1<<20:
		return strconv.FormatUint(kib>>20, 10) + "GB"
	case kib >= 1<<10:
		return strconv.FormatUint(kib>>10, 10) + "MB"
	}
	return strconv.FormatUint(kib, 10) + "KB"
}

func check(c *isolator.Container, sizes []string) error {
	for key := range c.Config.GetLimits() {
		size, ours := strings.CutPrefix(key, prefix)
		if !ours {
			continue
		}
		if !slices.Contains(sizes, size) {
			return fmt.Errorf("cgroups/hugetlb: limit of %s: %w: this host has no pages of that size, only of %s", key, container.ErrInvalid, strings.Join(sizes, ", "))
		}
		// Written so that NaN is refused.
		if limit, ok := resources.Limit(c.Config, key); ok && !(limit >= 0 && limit*mib <= most) {
			return fmt.Errorf("cgroups/hugetlb: limit of %v MiB of %s: %w: it must be from 0 to %d", limit, key, container.ErrInvalid, most/mib)
		}
	}
	return nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(ctx context.Context, c *isolator.Container, _ int) error {
	return i.Update(ctx, c)
}

// Update implements isolator.Updater.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	sizes, err := sizes()
	if err == nil {
		err = check(c, sizes)
	}
	if err != nil {
		return err
	}
	dir, err := cgroup.DirOf(i.groups, c.ID, controller)
	if err != nil {
		return err
	}
	if err := dir.Set(settings(dir, sizes, c)); err != nil {
		return fmt.Errorf("cgroups/hugetlb: %w", err)
	}
	return nil
}

// settings bound what is reserved, so that mmap(2) fails, where the kernel can (Linux 5.7),
// and what is used, for which the kernel has only SIGBUS.
func settings(dir cgroup.Dir, sizes []string, c *isolator.Container) (all []cgroup.Setting) {
	suffix, none := ".limit_in_bytes", "-1"
	if dir.Version() == cgroup.V2 {
		suffix, none = ".max", "max"
	}
	for _, size := range sizes {
		value := none
		if limit, ok := resources.Limit(c.Config, prefix+size); ok {
			value = strconv.FormatInt(int64(math.Floor(limit*mib)), 10)
		}
		for _, file := range []string{prefix + size + ".rsvd" + suffix, prefix + size + suffix} {
			if dir.Has(file) {
				all = append(all, cgroup.Setting{File: file, Value: value})
			}
		}
	}
	return all
}

// Cleanup implements isolator.Isolator: the settings went with the cgroup, which is the
// launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
