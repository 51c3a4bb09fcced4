package plan

// Rlimit is a resource limit of setrlimit(2).
type Rlimit struct {
	Name string // as "nofile"
	// In the unit of the limit; math.MaxUint64: none.
	Soft, Hard uint64
}

// RlimitNumber returns the kernel's number of a limit, asm-generic/resource.h. A
// function, as a table would be memory of every container.
func RlimitNumber(name string) (number int, known bool) {
	for n, has := range [...]string{"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
		"memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"} {
		if has == name {
			return n, true
		}
	}
	return 0, false
}
