// Package archive copies trees of files out of a directory and into one as a tar stream.
// What it reads and writes is below that directory whatever is in it, and whatever becomes
// of it meanwhile: a container may fill it, and change it under the reader's hands
// (CVE-2018-15664, CVE-2019-14271). No program of the container is executed, and none of its
// libraries loaded.
//
// Plain files, directories and symbolic links are copied, with their permissions and times.
// Devices, FIFOs and sockets are left out, and so are set-user-id and set-group-id: what a
// container has made is not to have rights where it is copied to.
package archive
