"""What a mount may be asked to be like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of one mount, named as mount(8) has them.

    A drive whose secret key is not here is mounted read-only, without devices and set-ID bits, and
    with all files shown as the mounting user's, whatever is asked.

    Args:
      read_only: refuse all changes.
      allow_other: let other users in; the kernel then checks permissions. Who is not root needs
        `user_allow_other` in /etc/fuse.conf.
      default_permissions: let the kernel check permissions. Without it (and without *allow_other*)
        we do, which saves a request for each change of a directory.
      dev, suid, noexec: as for any file system; *dev* also lets root make device nodes.
      uid, gid: show all files as owned by these.
      umask: show the permission bits that this leaves of 0777, instead of the recorded ones.
      sync: a call that changes something returns when that is durable. What is written to mappings
        waits for msync(2) all the same.
      dirsync: the same of calls that make, remove or change names.
      fsname: what mount(8) and df(1) show as the device.
      subtype: what mount(8) shows as the type, behind "fuse.".
      xattrs: keep extended attributes. Without, the kernel need not ask before each write.
      fast_loop: use our own wait for requests instead of pyfuse3's.
    """

    read_only: bool = False
    allow_other: bool = False
    default_permissions: bool = False
    dev: bool = False
    suid: bool = False
    noexec: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    sync: bool = False
    dirsync: bool = False
    fsname: str = "hyperfs"
    subtype: str = "hyperfs"
    xattrs: bool = True
    fast_loop: bool = True

    @property
    def kernel_checks(self) -> bool:
        """Whether the kernel decides who may do what."""
        return self.default_permissions or self.allow_other
