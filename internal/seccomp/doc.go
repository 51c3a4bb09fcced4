// Package seccomp makes filters of system calls: programs for the kernel's classic BPF
// machine (seccomp(2)) out of profiles in the JSON that Docker, podman and Kubernetes take.
//
//	profile --Parse--> Profile --Compile(what the container has, this host)--> Program
//
// A profile has a default action and rules, each for some system calls, under conditions on
// their arguments, on the capabilities of the container and on the host. Compile decides what
// it can, and leaves to the program what only the call itself shows. The decisions are those
// of libseccomp, which a test compares, with these differences: the x32 calls of amd64, a
// second set of numbers past most filters, do not exist; a system call that is newer than
// all that the profile names does not exist either (ENOSYS), instead of being
// forbidden, so that programs fall back to what they know; and a process of an architecture
// that the profile does not name is killed, not only its thread.
package seccomp
