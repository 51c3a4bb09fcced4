// Package layer turns a tar stream into a verified, durable layer on disk and
// keeps it for all image stores.
//
// A layer is named by the sha256 of its uncompressed tar, its diffID, and exists
// in forms. The form "tree" is a directory that overlayfs can stack: whiteouts are
// character devices 0/0, opaque directories carry trusted.overlay.opaque, and those
// with whiteouts an empty trusted.overlay.origin. Beside the tree lies the rest of the
// tar (headers and padding, in the format of tar-split), so that the very same tar can
// be made again. The form "erofs" unpacks nothing: it is the tar, and an EROFS file system
// over it (package erofs) with the same marks, whose files have their contents in the tar.
// A store may have both; Lease.Convert makes one of the other.
//
//	<store>/
//	    lock                            serialises sweeps with everything below
//	    gate                            whoever takes the lock goes through it, so that nobody starves
//	    spare                           becomes a lease where there is no room for a new file
//	    layers/<diffID>/tree/fs/        the tree
//	    layers/<diffID>/tree/split.zst  what the tar has beside file contents
//	    layers/<diffID>/tree/info.json  Info
//	    layers/<diffID>/tree/epoch      when it was committed or last verified
//	    layers/<diffID>/erofs/tar       the tar
//	    layers/<diffID>/erofs/index     the EROFS file system
//	    layers/<diffID>/erofs/...       info.json and epoch, as of a tree
//	    layers/<diffID>/superseded-*/   copies that were replaced; containers may stand on them
//	    leases/<name>                   diffIDs that a live process relies on
//	    staging/<name>/...              what the lease's process is unpacking
//	    staging/<name>.*                what it is removing
//	    session                         whether the store was closed, in which epoch it is
//	    open                            locked by all that have the store open
//
// # States
//
// A layer is absent, staged or visible. Lease.Unpack stages it: bytes are written
// below the lease's staging directory and verified. Lease.Commit makes all that a
// lease has staged durable and then visible, by a rename. Only a visible layer can
// be used. Sweep makes layers absent: it renames them to staging under its own name
// and removes them there.
//
// A visible layer may be broken, when the disk did not keep its word. After an unclean
// shutdown Lease.Hold verifies each layer before its next use; see session.go. A broken
// one counts as absent, and Commit exchanges it with the new copy in one step. The old
// copy stays beside it until no container can stand on it any more.
//
// A process relies on a layer between finding it and recording that it uses it. It
// says so by Lease.Hold; a sweep leaves held layers alone. A lease is a file that
// its process has locked, so it ends with its process; Recover removes what dead
// leases left. Who can record at once what he has found does so by Store.Use, which
// keeps sweeps from deciding meanwhile.
//
// # Trust
//
// A tar is hostile input. The unpacker never leaves the tree, never follows a
// symbolic link, makes no node that could steer overlayfs and stays within Limits.
// It follows the OCI image specification, "Image Layer Filesystem Changeset".
package layer
