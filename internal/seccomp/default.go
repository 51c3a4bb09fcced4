package seccomp

import (
	"strings"
	"sync"
)

// Default returns the profile of containers that bring none. It decides as that of Docker
// (https://docs.docker.com/engine/security/seccomp/), from which it differs in that
// there is no x32.
//
// What it forbids is what programs hardly need and what has often led out of containers: new
// namespaces, mounts, kernel modules, keys of others, BPF, the clock, and the like. Some of
// that comes with the capability that the kernel asks for.
var Default = sync.OnceValue(func() *Profile {
	p := &Profile{DefaultAction: "SCMP_ACT_ERRNO", ArchMap: []archMap{
		{"SCMP_ARCH_X86_64", []string{"SCMP_ARCH_X86"}},
		{"SCMP_ARCH_AARCH64", []string{"SCMP_ARCH_ARM"}},
	}}
	for _, group := range harmless {
		p.allow(Rule{}, group)
	}
	for _, c := range withCapability {
		p.allow(Rule{Includes: Condition{Caps: c.caps}}, c.calls)
	}
	for _, m := range onArch {
		p.allow(Rule{Includes: Condition{Arches: m.arches}}, m.calls)
	}
	// Before 4.8 a filter could be evaded by ptrace(2).
	p.allow(Rule{Includes: Condition{MinKernel: "4.8"}}, "ptrace process_vm_readv process_vm_writev")
	for _, persona := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} { // Linux, a 32 bit uname, and asking
		p.allow(Rule{Args: []Argument{{Index: 0, Value: persona, Op: "SCMP_CMP_EQ"}}}, "personality")
	}
	for _, family := range families {
		p.allow(Rule{Args: []Argument{{Index: 0, Value: family, Op: "SCMP_CMP_EQ"}}}, "socket")
	}
	// Threads and processes, but no namespaces. The flags of clone3 are in memory, where no
	// filter sees them, so it is as if there were none, and programs use clone.
	noAdmin := Condition{Caps: []string{"CAP_SYS_ADMIN"}}
	p.allow(Rule{Excludes: noAdmin, Args: []Argument{{Index: 0, Value: cloneNamespaces, ValueTwo: 0, Op: "SCMP_CMP_MASKED_EQ"}}}, "clone")
	missing := uint16(enosys)
	p.Syscalls = append(p.Syscalls, Rule{Names: []string{"clone3"}, Action: "SCMP_ACT_ERRNO", Errno: &missing, Excludes: noAdmin})
	if err := p.check(); err != nil {
		panic(err)
	}
	return p
})

func (p *Profile) allow(r Rule, calls string) {
	r.Names, r.Action = strings.Fields(calls), "SCMP_ACT_ALLOW"
	p.Syscalls = append(p.Syscalls, r)
}

// cloneNamespaces are the flags of clone(2) that make namespaces: CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
const cloneNamespaces = 0x7e020000

// families are those of socket(2): not AF_ALG, whose place in the kernel few programs need
// and many attacks used, and not AF_VSOCK, by which a container would speak to the
// machine's virtual ones whatever its network is. Those that the kernel has no more are not
// there either.
var families = []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45}

// harmless is what every container may do.
var harmless = []string{
	// Files.
	"access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fadvise64_64",
	"fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr",
	"fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat",
	"ioctl lchown lchown32 lgetxattr link linkat listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64",
	"mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read",
	"readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat",
	"splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink",
	"unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev",
	"fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch",
	// Waiting for files.
	"epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 _newselect poll",
	"ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4",
	"io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set",
	// Sockets, but for making them.
	"accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg send sendmmsg",
	"sendmsg sendto setsockopt shutdown socketcall socketpair",
	// Memory.
	"brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap",
	"mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages",
	// Processes, their users and their limits.
	"capget capset execve execveat exit exit_group fork getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid",
	"getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32",
	"get_robust_list get_thread_area kill pause pidfd_open pidfd_send_signal pipe pipe2 prctl prlimit64 rseq",
	"sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval",
	"sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield setfsgid setfsgid32 setfsuid",
	"setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32",
	"setreuid setreuid32 setrlimit setsid setuid setuid32 set_robust_list set_thread_area set_tid_address sysinfo tgkill tkill ugetrlimit",
	"uname uretprobe vfork wait4 waitid waitpid getcpu getrandom",
	"landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
	// Signals.
	"restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait",
	"rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
	// Time, without setting the clock: the kernel asks for a capability.
	"adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep",
	"clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time times timer_create timer_delete timer_getoverrun timer_gettime",
	"timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
	// Between processes.
	"futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify mq_open mq_timedreceive",
	"mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop",
	"semtimedop_time64 shmat shmctl shmdt shmget",
	"riscv_hwprobe",
}

// withCapability comes with capabilities.
var withCapability = []struct {
	caps  []string
	calls string
}{
	{[]string{"CAP_DAC_READ_SEARCH"}, "open_by_handle_at"},
	{[]string{"CAP_SYS_ADMIN"}, `bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
		lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
		umount umount2 unshare`},
	{[]string{"CAP_SYS_BOOT"}, "reboot"},
	{[]string{"CAP_SYS_CHROOT"}, "chroot"},
	{[]string{"CAP_SYS_MODULE"}, "delete_module init_module finit_module"},
	{[]string{"CAP_SYS_PACCT"}, "acct"},
	{[]string{"CAP_SYS_PTRACE"}, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"},
	{[]string{"CAP_SYS_RAWIO"}, "iopl ioperm"},
	{[]string{"CAP_SYS_TIME"}, "settimeofday stime clock_settime clock_settime64"},
	{[]string{"CAP_SYS_TTY_CONFIG"}, "vhangup"},
	{[]string{"CAP_SYS_NICE"}, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
	{[]string{"CAP_SYSLOG"}, "syslog"},
	{[]string{"CAP_BPF"}, "bpf"},
	{[]string{"CAP_PERFMON"}, "perf_event_open"},
}

// onArch is what programs of some machines need.
var onArch = []struct {
	arches []string
	calls  string
}{
	{[]string{"arm", "arm64"}, "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls"},
	{[]string{"amd64"}, "arch_prctl"},
	{[]string{"amd64", "x86"}, "modify_ldt"},
	{[]string{"riscv64"}, "riscv_flush_icache"},
}
