//go:build !linux

package main

import "os"

// The first process of a container exists on Linux only.
func main() { os.Exit(125) }
