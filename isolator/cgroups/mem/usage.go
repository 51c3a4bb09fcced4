//go:build linux

package mem

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
)

// Usage implements isolator.Meter.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	dir, err := i.dir(id)
	if err != nil {
		return err
	}
	if err := usage(dir.Kept(), id, to, &i.pressure); err != nil {
		return fmt.Errorf("cgroups/mem: %w", err)
	}
	return nil
}

func usage(dir cgroup.Dir, id container.ID, to *v1.ResourceStatistics, pressure *pressures) (err error) {
	if dir.Version() == cgroup.V2 {
		err = usageV2(dir, to)
	} else {
		err = usageV1(dir, to)
		pressure.count(id, to)
	}
	to.MemFileBytes, to.MemAnonBytes = to.MemCacheBytes, to.MemRssBytes // by their former names
	return err
}

func usageV1(dir cgroup.Dir, to *v1.ResourceStatistics) error {
	err := errors.Join(
		amount(dir, "memory.usage_in_bytes", &to.MemTotalBytes),
		dir.Scan("memory.stat", func(key []byte, n uint64) {
			switch string(key) {
			case "total_cache":
				to.MemCacheBytes = proto.Uint64(n)
			case "total_rss":
				to.MemRssBytes = proto.Uint64(n)
			case "total_mapped_file":
				to.MemMappedFileBytes = proto.Uint64(n)
			case "total_swap":
				to.MemSwapBytes = proto.Uint64(n)
			case "total_unevictable":
				to.MemUnevictableBytes = proto.Uint64(n)
			}
		}),
		ifThere(amount(dir, "memory.kmem.usage_in_bytes", &to.MemKmemUsageBytes)),
		ifThere(amount(dir, "memory.kmem.tcp.usage_in_bytes", &to.MemKmemTcpUsageBytes)),
	)
	withSwap(to)
	return err
}

// withSwap adds the sum that v1 also has a file of, where swap is accounted for. A file
// costs more than all that is computed here.
func withSwap(to *v1.ResourceStatistics) {
	if to.MemSwapBytes != nil {
		to.MemTotalMemswBytes = proto.Uint64(to.GetMemTotalBytes() + to.GetMemSwapBytes())
	}
}

func usageV2(dir cgroup.Dir, to *v1.ResourceStatistics) error {
	err := errors.Join(
		amount(dir, "memory.current", &to.MemTotalBytes),
		dir.Scan("memory.stat", func(key []byte, n uint64) {
			switch string(key) {
			case "file":
				to.MemCacheBytes = proto.Uint64(n)
			case "anon":
				to.MemRssBytes = proto.Uint64(n)
			case "file_mapped":
				to.MemMappedFileBytes = proto.Uint64(n)
			case "unevictable":
				to.MemUnevictableBytes = proto.Uint64(n)
			case "kernel":
				to.MemKmemUsageBytes = proto.Uint64(n)
			case "sock":
				to.MemKmemTcpUsageBytes = proto.Uint64(n)
			}
		}),
		// What v1 tells by its levels of pressure: memory is reclaimed (low), the limit was
		// reached (max), and nothing was left to reclaim (oom).
		dir.Scan("memory.events", func(key []byte, n uint64) {
			switch string(key) {
			case "low":
				to.MemLowPressureCounter = proto.Uint64(n)
			case "max":
				to.MemMediumPressureCounter = proto.Uint64(n)
			case "oom":
				to.MemCriticalPressureCounter = proto.Uint64(n)
			}
		}),
		ifThere(amount(dir, "memory.swap.current", &to.MemSwapBytes)),
		stalls(dir, to),
	)
	withSwap(to)
	return err
}

// stalls reads for how long processes waited for memory (Documentation/accounting/psi.rst).
// A kernel that was booted with psi=0 has the file and does not let anybody open it.
func stalls(dir cgroup.Dir, to *v1.ResourceStatistics) error {
	text, err := dir.Read("memory.pressure")
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return ifThere(err)
	}
	for line := range strings.Lines(text) {
		_, total, _ := strings.Cut(strings.TrimSpace(line), " total=")
		microseconds, err := strconv.ParseUint(total, 10, 64)
		if err != nil {
			return fmt.Errorf("memory.pressure: line %q: %w", line, err)
		}
		secs := proto.Float64(float64(microseconds) / 1e6)
		switch {
		case strings.HasPrefix(line, "some "):
			to.MemPressureSomeSecs = secs
		case strings.HasPrefix(line, "full "):
			to.MemPressureFullSecs = secs
		}
	}
	return nil
}

func amount(dir cgroup.Dir, file string, to **uint64) error {
	n, err := dir.ReadUint(file)
	if err == nil {
		*to = &n
	}
	return err
}

// ifThere passes over what this kernel does not have.
func ifThere(err error) error {
	if errors.Is(err, container.ErrNotSupported) {
		return nil
	}
	return err
}
