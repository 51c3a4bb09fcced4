package provisioner

import "berth/internal/metrics"

// The names of the provisioner's metrics. All are counters.
const (
	// RemoveContainerErrors has the name that it has in Mesos: destroys of nested
	// containers that failed, and directories of containers that could not be removed.
	RemoveContainerErrors = "containerizer/mesos/provisioner/remove_container_errors"
	// RecoverErrors counts what a Recover was not able to recover.
	RecoverErrors = "containerizer/mesos/provisioner/recover_errors"
	// Prunes counts those that ended without an error, PrunedBytes what the file system
	// has gained by all.
	Prunes      = "containerizer/mesos/provisioner/prunes"
	PrunedBytes = "containerizer/mesos/provisioner/pruned_bytes"
	// RepairedLayers counts the layers that a Repair has fetched again.
	RepairedLayers = "containerizer/mesos/provisioner/repaired_layers"
)

type counters struct {
	removeErrors, recoverErrors, prunes, prunedBytes, repairedLayers *metrics.Counter
}

func newCounters(s *metrics.Set) counters {
	return counters{
		removeErrors:   s.Counter(RemoveContainerErrors),
		recoverErrors:  s.Counter(RecoverErrors),
		prunes:         s.Counter(Prunes),
		prunedBytes:    s.Counter(PrunedBytes),
		repairedLayers: s.Counter(RepairedLayers),
	}
}
