// Package registry fetches manifests and blobs from registries that speak the OCI
// distribution-spec, version 1.1 ("Pull"; Docker's Registry HTTP API V2 is the same
// for pulling), and verifies them.
//
// The nouns: a Client talks to any number of registries; a Raw is a manifest or an
// index as its bytes; a blob is a stream of bytes that a descriptor announces. A
// session, inside, is what the client knows of one repository: how to authorize.
//
//	Client.Manifest ---- name -------> Raw      <= 4 MiB, its digest checked
//	Client.Blob     ---- descriptor -> reader   EOF only after the right bytes
//
//	one request:   GET --401--> token or password --> GET again, once
//	                |
//	                +--3xx--> the next place, at most 5, without credentials
//	                          once it is another host
//
// What it promises whatever a registry does: memory is bounded, no byte that is not
// the announced one passes as such, every transfer ends (each wait has a limit, not
// the whole), a password or token goes to nobody but the registry it belongs to and
// the token server that this registry names, and none of them shows in an error.
// Plain http is spoken on the loopback interface only.
//
// Left to others: what a manifest says and which one of an index to take (package
// image), decompression (package layer), caching (the stores). Nothing is retried
// here but the one request that was answered with a request for credentials.
//
// Authentication follows Docker's "Token Authentication Specification" and "OAuth2
// Token Authentication", and RFC 7617 for Basic; challenges follow RFC 9110, section
// 11.6.1, and forgive what registries are known to get wrong.
package registry
