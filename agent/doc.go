// Package agent is the daemon of a host. It launches containers for whoever asks by the
// operator API (package operator), on a socket of its own and if it is told so by TCP; looks
// after them, also after those of the agent before it; keeps their results for a while
// (retention.go); removes images when the disk fills up (imagegc.go); and reads its
// configuration again when it is asked to (reload.go).
//
//	start -> lock the directories -> answer that it recovers -> recover -> answer calls -> stop
//
// A stop leaves the containers running. There is one agent for a work directory and a runtime
// directory. Other berth processes may use both meanwhile.
package agent
