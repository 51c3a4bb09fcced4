//go:build linux

package mem

import (
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/internal/resources"
)

// preferVictim has the host, when it runs out of memory, rather kill what uses more than it
// requested: the less of the host's memory a container requested, the earlier. Its processes
// have that from its first one.
func preferVictim(config *v1.ContainerConfig, pid int) error {
	if !isPreferred(config) {
		return nil
	}
	host, err := hostMemory()
	if err != nil {
		return err
	}
	score := oomScore(config, host)
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0)
}

// hostMemory is the memory of the host in bytes. The kernel adds up much for it that nobody
// asks for here, so it is asked once.
var hostMemory = sync.OnceValues(func() (float64, error) {
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return 0, os.NewSyscallError("sysinfo", err)
	}
	return float64(host.Totalram) * float64(host.Unit), nil
})

// isPreferred: a container that requested nothing, or all that it may have, is not.
func isPreferred(config *v1.ContainerConfig) bool {
	_, requested := resources.Requested(config, resource)
	limit, limited := resources.Limit(config, resource)
	return requested && (!limited || softLimit(config) < limit*mib)
}

// oomScore is what Mesos writes to oom_score_adj, too.
func oomScore(config *v1.ContainerConfig, hostMemory float64) int {
	return int(1000 - 1000*min(1, softLimit(config)/hostMemory))
}

// softLimit is what the container requested, in bytes, but for an amount that is too small.
func softLimit(config *v1.ContainerConfig) float64 {
	request, _ := resources.Requested(config, resource)
	return max(minSoft, request*mib)
}
