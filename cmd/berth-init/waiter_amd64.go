//go:build linux

package main

// waiterMachine is EM_X86_64.
const waiterMachine = 62
