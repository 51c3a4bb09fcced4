// Package mounttest gives the tests that mount something a mount table of their own,
// in which nothing can be left behind, and file systems of their own.
package mounttest
