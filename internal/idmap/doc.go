// Package idmap makes the user namespaces that idmapped mounts are made with: of such a
// namespace only the maps matter, and it needs no process.
package idmap
