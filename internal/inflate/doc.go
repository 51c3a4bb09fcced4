// Package inflate reads gzip (RFC 1952, 1951) as fast as a core can: layers are most often
// gzip, and to inflate them is most of the work of a pull.
package inflate
