// Package spill is memory that the kernel can do without: it lies in a file, which the kernel
// writes and reads again as it needs room. So what takes much of it for one piece of work does
// not take it from others, and does not count as what the process has of its own.
package spill
