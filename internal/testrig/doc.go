// Package testrig is the workbench of the tests, the demo and the benchmarks: a
// real registry, images that other people's tools built, an oracle to compare
// with, and watches over what a host must look like afterwards.
//
// # Nouns
//
//   - A RegistryServer is the real docker-registry on the loopback, behind a
//     proxy that counts requests and can be told to fail them.
//   - An image builder (BusyboxImage, MultiLayerImage, SmallImage, DebianImage,
//     BigLayerImage) makes an image with umoci, buildah, GNU tar or
//     debootstrap, pushes it and returns its reference. berth's own code builds
//     none of them, so that a fault shared by writer and reader cannot hide.
//   - The oracle, SkopeoUmoci, is what "skopeo copy" and "umoci unpack" make
//     of a reference. CompareTrees holds a tree of ours against it.
//   - A Manifest is a tree as a list of entries, with everything that stat,
//     listxattr and the content can tell.
//   - A State is what berth could leave behind on a host; NoLeaks fails the
//     test that left something.
//   - A Command runs the berth of this source tree in directories and under a
//     cgroup of its own.
//
// # What the rig promises
//
// Everything that it starts is ended by its process id and dies with the test
// process; everything that it mounts is unmounted, also when the test fails.
// Nothing leaves the loopback, with one exception: the first DebianImage on a
// machine is built from the package archive that the machine's own apt uses.
//
// # What it needs
//
// Debian packages, which script/packages installs. A test whose tools or whose
// root are missing is skipped with the reason; BERTH_TEST_REQUIRE_ROOT=1, which
// "make test" sets, turns these skips into failures.
//
//	BERTH_TEST_REQUIRE_ROOT  1: a missing root or tool is a failure
//	BERTH_TEST_CACHE         where images and binaries are kept between runs
//	                         (default: berth-test in the user's cache directory)
//	BERTH_TEST_BINARIES      where berth and berth-init were built already
//	                         (default: they are built)
//
// All of it is Linux, so every file but this one is marked so.
package testrig
