// Package e2e tests berth as its users meet it: the built programs, a real registry on
// loopback, images that other tools have made, and the host's mounts, cgroups,
// processes and files before and after.
package e2e
