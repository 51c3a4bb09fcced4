// Package cgroup is the one interface behind which cgroup v1, cgroup v2 and
// hybrid hosts look the same to a launcher and to the isolators.
//
// # Nouns
//
// A hierarchy is one mounted cgroup tree. A v1 hierarchy carries the controllers
// that it was mounted with (several may share one: cpu,cpuacct); the v2 tree, of
// which a host has at most one, carries those that no v1 hierarchy took. A Host is
// the set of hierarchies that are mounted; nothing here mounts any. Which version
// serves a controller is found out per controller and never configured:
//
//	v1      /sys/fs/cgroup/{cpu,cpuacct  memory  pids  freezer ...}
//	v2      /sys/fs/cgroup
//	hybrid  /sys/fs/cgroup/{cpu,cpuacct  memory  ...}  and  /sys/fs/cgroup/unified
//
// Controllers go by their v1 names on either version: "blkio" is "io" on v2, and
// "cpuacct", "devices", "freezer" and "perf_event" are part of every v2 cgroup.
// A v1 hierarchy without controllers goes by its option: "name=systemd".
//
// A Group is one container's cgroup: a directory at the same path below the mount
// point of every hierarchy that it has a part in. Those are the hierarchies of the
// controllers asked for, and always one more from which no process of the group
// can slip away while it is killed, the keeper: the v2 tree (cgroup.kill) or else
// the v1 freezer. Processes live in the group itself or in cgroups
// below it, never in its parents.
//
// A Dir is the group's directory for one controller: where an isolator writes
// limits and reads statistics. In the v2 tree the processes are in a leaf below it
// ("berth/x/berth.leaf"), so that groups nested in this one can have controllers: the
// kernel refuses them to the children of a cgroup that holds processes.
//
// # States
//
//	Host.Group -> (nothing on the host) -> Create -> Enter, or clone into UnifiedFD
//	           -> Kill -> Remove -> (nothing on the host)
//
// Kill and Remove may be called in every state, by a process that did not create
// the group, and again: what is missing is success. Parents ("berth" of
// "berth/x") are made when missing and removed when empty, so that groups may
// come and go under one parent at the same time and none leaves anything; with RemoveBelow
// some stay until RemoveEmpty.
// What does stay is that a controller was enabled in the cgroup.subtree_control of the
// v2 tree's root: others may have come to rely on it.
//
// # Left to others
//
// Which path a container has, when it is recorded and which values its limits
// have.
//
// The package follows the kernel's Documentation/admin-guide/cgroup-v1
// (cgroups.rst, freezer-subsystem.rst, cpusets.rst) and
// Documentation/admin-guide/cgroup-v2.rst ("Organizing Processes and Threads",
// "Controlling Controllers", "Core Interface Files").
package cgroup
