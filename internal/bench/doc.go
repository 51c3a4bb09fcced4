// Package bench measures berth beside the programs that its users know, as far as they
// are installed, and beside the system calls that nobody can do without: in one run, in
// turn, on the same image and the same new file system. It prints medians and ratios: the
// machine's noise hits all alike, so ratios hold.
//
//	go test -run '^$' -bench . -benchtime 1x ./internal/bench
//
// All tables come at the end. The column first/this says how many times as long as this
// one the first one takes: the median of the rounds, in each of which both were measured
// one after the other. Who does not take part is named, with the reason.
package bench
