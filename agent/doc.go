// Package agent is the daemon of a host. What it does so far: it recovers, it removes
// images when the disk fills up (imagegc.go), and it tells its metrics on a socket
// (socket_linux.go). Launching containers through it is to come.
//
// There is one agent for a work directory and a runtime directory. Other berth
// processes may use both meanwhile.
package agent
