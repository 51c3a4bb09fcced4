package fetch

import "syscall"

// changeTime is when content or attributes of a file changed last, in ns.
func changeTime(st *syscall.Stat_t) int64 { return st.Ctim.Nano() }
