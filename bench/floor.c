// floor starts `true` in a container with the least that is needed for it: the namespaces,
// mounts, devices and cgroups that berth makes, by bare system calls, and nothing else: no
// records, no checks, no errors in words. It is what `make bench` compares a launch with.
//
//	floor LOWER DIRECTORY CGROUP...
//
// LOWER is the layer; in DIRECTORY everything is made and removed; each CGROUP is a
// directory of one hierarchy.
#define _GNU_SOURCE
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(call) do { if ((call) < 0) { perror(#call); exit(125); } } while (0)
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static char dir[256], rootfs[300], upper[300], work[300], sandbox[300];

static const char *masked[] = {
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/key-users",
	"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	"/sys/devices/virtual/powercap", "/sys/firmware"};
static const char *readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
static const struct { const char *path; int mode, major, minor; } nodes[] = {
	{"dev/null", 0666, 1, 3}, {"dev/zero", 0666, 1, 5}, {"dev/full", 0666, 1, 7},
	{"dev/random", 0666, 1, 8}, {"dev/urandom", 0666, 1, 9}, {"dev/tty", 0666, 5, 0}};
static const struct { const char *target, *path; } links[] = {
	{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
	{"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};

static void mount_at(const char *type, const char *target, unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	TRY(mount(type, target, type, flags, data));
}

static void remount_readonly(const char *path)
{
	if (mount(path, path, NULL, MS_BIND, NULL) == 0)
		TRY(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

static void mask(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return;
	if (S_ISDIR(st.st_mode))
		TRY(mount("tmpfs", path, "tmpfs", MS_RDONLY, "mode=555"));
	else
		TRY(mount("/dev/null", path, NULL, MS_BIND, NULL));
}

static void up_loopback(void)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	TRY(s);
	TRY(ioctl(s, SIOCSIFFLAGS, &lo));
	close(s);
}

static void container(void)
{
	const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	TRY(mount(rootfs, rootfs, NULL, MS_BIND, NULL));
	TRY(chdir(rootfs));
	mount_at("proc", "proc", quiet, NULL);
	mount_at("sysfs", "sys", quiet | MS_RDONLY, NULL);
	TRY(mount("tmpfs", "sys/fs/cgroup", "tmpfs", quiet | MS_RDONLY, "mode=755"));
	mount_at("tmpfs", "dev", MS_NOSUID | MS_NOEXEC, "mode=755");
	mount_at("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
	mount_at("tmpfs", "dev/shm", quiet, "mode=1777");
	for (size_t i = 0; i < COUNT(nodes); i++)
		TRY(mknod(nodes[i].path, S_IFCHR | nodes[i].mode, makedev(nodes[i].major, nodes[i].minor)));
	for (size_t i = 0; i < COUNT(links); i++)
		TRY(symlink(links[i].target, links[i].path));
	mkdir("mnt", 0755);
	mkdir("mnt/mesos", 0755);
	mkdir("mnt/mesos/sandbox", 0755);
	TRY(mount(sandbox, "mnt/mesos/sandbox", NULL, MS_BIND, NULL));
	TRY(mount(NULL, "mnt/mesos/sandbox", NULL, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV, NULL));
	TRY(syscall(SYS_pivot_root, ".", "."));
	TRY(umount2(".", MNT_DETACH));
	TRY(chdir("/mnt/mesos/sandbox"));
	for (size_t i = 0; i < COUNT(masked); i++)
		mask(masked[i]);
	for (size_t i = 0; i < COUNT(readonly); i++)
		remount_readonly(readonly[i]);
	TRY(sethostname("floor", 5));
	up_loopback();
	// The command is a child of the first process, which reaps.
	pid_t command = vfork();
	TRY(command);
	if (command == 0) {
		setsid();
		execl("/bin/true", "true", NULL);
		_exit(127);
	}
	int status;
	TRY(waitpid(command, &status, 0));
	_exit(WEXITSTATUS(status));
}

static void enter(const char *cgroup, pid_t pid)
{
	char path[512];
	snprintf(path, sizeof path, "%s/floor-%d", cgroup, getpid());
	TRY(mkdir(path, 0755));
	strcat(path, "/cgroup.procs");
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	TRY(fd);
	TRY(dprintf(fd, "%d", pid));
	close(fd);
}

static void leave(const char *cgroup)
{
	char path[512];
	snprintf(path, sizeof path, "%s/floor-%d", cgroup, getpid());
	TRY(rmdir(path));
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 125;
	snprintf(dir, sizeof dir, "%s/floor-%d", argv[2], getpid());
	snprintf(rootfs, sizeof rootfs, "%s/rootfs", dir);
	snprintf(upper, sizeof upper, "%s/upper", dir);
	snprintf(work, sizeof work, "%s/work", dir);
	snprintf(sandbox, sizeof sandbox, "%s/sandbox", dir);
	const char *dirs[] = {dir, rootfs, upper, work, sandbox};
	for (size_t i = 0; i < COUNT(dirs); i++)
		TRY(mkdir(dirs[i], 0755));
	char options[1024];
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", argv[1], upper, work);
	TRY(mount("overlay", rootfs, "overlay", 0, options));

	int go[2];
	TRY(pipe2(go, O_CLOEXEC));
	pid_t pid = syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0);
	TRY(pid);
	if (pid == 0) {
		char byte;
		close(go[1]);
		if (read(go[0], &byte, 1) == 1)
			container();
		_exit(125);
	}
	for (int i = 3; i < argc; i++)
		enter(argv[i], pid);
	TRY(write(go[1], "", 1));
	int status;
	TRY(waitpid(pid, &status, 0));
	for (int i = 3; i < argc; i++)
		leave(argv[i]);
	TRY(umount2(rootfs, MNT_DETACH));
	char remove[400];
	snprintf(remove, sizeof remove, "%s/work", work);
	rmdir(remove);
	// What overlayfs and the mount points left in the upper directory.
	static const char *made[] = {"upper/mnt/mesos/sandbox", "upper/mnt/mesos", "upper/mnt", "upper/proc", "upper/sys", "upper/dev", "upper"};
	for (size_t i = 0; i < COUNT(made); i++) {
		snprintf(remove, sizeof remove, "%s/%s", dir, made[i]);
		rmdir(remove);
	}
	TRY(rmdir(work));
	TRY(rmdir(sandbox));
	TRY(rmdir(rootfs));
	TRY(rmdir(dir));
	return WEXITSTATUS(status);
}
