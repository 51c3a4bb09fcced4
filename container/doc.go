// Package container holds the values that every other room speaks of: the
// identity of a container, how it ended, and the classes of errors.
//
// It has no behaviour beyond parsing and printing, does no I/O and imports
// nothing of the project, so that every package may import it.
package container
