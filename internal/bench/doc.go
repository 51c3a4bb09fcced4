// Package bench measures berth beside the programs that its users know, as far as they
// are installed: in one run, in turn, on the same image and the same fresh file system,
// and reports medians. The machine's noise hits all alike, so ratios hold.
//
//	go test -run '^$' -bench . -benchtime 1x ./internal/bench
package bench
