//go:build !linux

package main

import (
	"fmt"
	"os"
)

// Elsewhere than on Linux there is nothing to run containers with yet; the packages
// build, for those who use their values and clients.
func main() {
	fmt.Fprintln(os.Stderr, "berth: containers need Linux; this program was built for another system")
	os.Exit(125)
}
