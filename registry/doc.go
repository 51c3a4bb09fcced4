// Package registry fetches manifests and blobs from registries that speak the OCI
// distribution-spec, version 1.1 ("Pull"; Docker's Registry HTTP API V2 is the same
// for pulling), and verifies them.
//
// The nouns: a Client talks to any number of registries; an endpoint, inside, is a place
// where a repository can be had, the registry itself or a mirror of it; a Raw is a manifest
// or an index as its bytes; a Blob is a stream of bytes that a descriptor announces. A
// session is what the client knows of an endpoint: how to authorize.
//
//	Client.Manifest ---- name -------> Raw    <= 4 MiB, its digest checked
//	Client.Blob     ---- descriptor -> Blob   EOF only after the right bytes
//
//	a name:        mirror, mirror, registry    and again, after a wait
//
//	one request:   GET --401--> token or password --> GET again, once
//	                |
//	                +--3xx--> the next place, at most 5, without credentials
//	                          once it is another host
//
//	a blob:        GET ... it breaks off --> GET with Range ... --> its digest is checked
//	               GET ... it is slow ----> GETs with Range ... -'
//
// What it promises whatever a registry does: memory is bounded, no byte that is not
// the announced one passes as such, every transfer ends (each wait has a limit, and so has
// the number of attempts that bring nothing), a password or token goes to nobody but the
// registry it belongs to and the token server that this registry names, and none of them
// shows in an error. Plain http is spoken on the loopback interface only, and to
// registries that the configuration calls insecure.
//
// What fails for a while is tried again: 429, 5xx, connections that break or stall. The
// next place comes first; when all have failed, there is a wait that grows, or that the
// registry asked for (Retry-After). A blob that breaks off goes on where it was, and whoever
// has kept its beginning from an earlier process goes on from there.
//
// Left to others: what a manifest says and which one of an index to take (package
// image), decompression (package layer), caching and keeping what was fetched in part (the
// stores).
//
// Authentication follows Docker's "Token Authentication Specification" and "OAuth2
// Token Authentication", and RFC 7617 for Basic; challenges follow RFC 9110, section
// 11.6.1, and forgive what registries are known to get wrong. Configuration is read in the
// formats that people have: Docker's config.json and certs.d, containerd's hosts.toml,
// registries.conf of the containers tools.
package registry
