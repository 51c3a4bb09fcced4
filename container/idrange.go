package container

import "fmt"

// IDRange is where the users and groups of a container with a user namespace are on the
// host: its 0 is Start there, and so on. The zero value is no user namespace: the ids are
// the host's.
type IDRange struct {
	Start uint32 `json:"start"`
	Size  uint32 `json:"size"`
}

// IsHost reports whether the ids are the host's.
func (r IDRange) IsHost() bool { return r.Size == 0 }

// Has reports whether a container has the id.
func (r IDRange) Has(id uint32) bool { return r.IsHost() || id < r.Size }

// OnHost returns what an id of the container is on the host; the container has it.
func (r IDRange) OnHost(id uint32) uint32 { return r.Start + id }

// Inside returns what an id of the host is in the container. One that it does not have is
// shown to it as nobody's.
func (r IDRange) Inside(id uint32) uint32 {
	switch {
	case r.IsHost():
		return id
	case id < r.Start || id-r.Start >= r.Size:
		return overflow
	}
	return id - r.Start
}

// overflow is the id that the kernel shows for one that has no other (user_namespaces(7)).
const overflow = 65534

// Overlaps reports whether two ranges have an id in common.
func (r IDRange) Overlaps(other IDRange) bool {
	return uint64(r.Start) < uint64(other.Start)+uint64(other.Size) && uint64(other.Start) < uint64(r.Start)+uint64(r.Size)
}

func (r IDRange) String() string { return fmt.Sprintf("%d:%d", r.Start, r.Size) }
