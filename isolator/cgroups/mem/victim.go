//go:build linux

package mem

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/internal/resources"
)

// preferVictim has the host, when it runs out of memory, rather kill what uses more than it
// requested: the less of the host's memory a container requested, the earlier. Its processes
// have that from its first one.
func preferVictim(config *v1.ContainerConfig, pid int) error {
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	score, ok := oomScore(config, float64(host.Totalram)*float64(host.Unit))
	if !ok {
		return nil
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0)
}

// oomScore is what Mesos writes to oom_score_adj, too; false: nothing, as the container
// requested nothing, or all that it may have.
func oomScore(config *v1.ContainerConfig, hostMemory float64) (int, bool) {
	request, requested := resources.Requested(config, resource)
	soft := max(minSoft, request*mib)
	limit, limited := resources.Limit(config, resource)
	if !requested || limited && soft >= limit*mib {
		return 0, false
	}
	return int(1000 - 1000*min(1, soft/hostMemory)), true
}
