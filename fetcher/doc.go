// Package fetcher brings the files that a CommandInfo names into the sandbox of a
// container before its command runs.
//
// A URI is http://, https://, file:// or an absolute path of the host; a relative path is
// below the directory that Options.FrameworksHome names. At its end "#sha256=" with 64
// hexadecimal digits says what the content has to be. A file of the host is opened with the
// rights of the container's user, so that nobody is handed what he may not read.
//
// What is fetched is a stranger's, and so may be the sandbox: its container's parent can
// change it at the same time. Every name is resolved below a descriptor of the sandbox and
// through no symbolic link, whoever made it; whatever file is in the place of a new one is
// removed and never written to. All that is made belongs to the container's user, without
// set-user-id, set-group-id and sticky bits.
//
// The name of a file says whether it is an archive, and of which kind. Its contents go into
// the sandbox; devices and FIFOs, names with ".." and absolute ones are refused. A symbolic
// link may lead anywhere: nothing here follows it, and the container could have made it.
//
// # The cache
//
// A download that is to be cached is kept in a directory that processes share:
//
//	<key>.lock      locked by who looks at the entry or downloads it
//	<key>.partial   the download that is under way; as large as it will be
//	<key>.<sha256>  content
//	<key>.json      record: which content, and what its server said of it; its time is
//	                that of the last use
//	lock            held over what makes room
//
// The key is the digest of the URI. Content is durable before a record names it, and is
// found only by its record: whatever has no record and no locked lock file is what a killed
// process left, and goes when room is made. A use asks the server whether the content is
// still the same (by ETag, Last-Modified, or size), unless the URI says its digest, or the
// content came after the use had begun: so many who want one URI at once download it once.
// A container gets a copy, which shares blocks where the file system can.
package fetcher
