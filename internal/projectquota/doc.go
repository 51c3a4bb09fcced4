// Package projectquota limits what directories occupy, by the project quotas of XFS and
// ext4: each file has a project, new ones that of their directory, and the kernel counts
// and bounds the blocks of a project (quotactl(2), ioctl_xfs_fsgetxattr(2)).
//
// The file system needs them to be switched on: XFS by the mount option prjquota, ext4 by
// the features project and quota (tune2fs -O project,quota -Q prjquota) and that option.
package projectquota
