// Package attributes copies what a node of a file system has besides its content: owner,
// mode, extended attributes and times. Its errors say what was tried, not on which path:
// callers know that, in their own terms.
package attributes
