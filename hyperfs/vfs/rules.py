"""POSIX rules as pure functions: who may do what, and what follows from it.

Everything takes numbers and returns numbers, or raises `OSError` with the errno that the system
call reports. Modes are whole `st_mode` values unless said otherwise. Where POSIX leaves a choice,
the choice is Linux's, so that programs and test suites find what they find on ext4.

Source: POSIX.1-2017 (chmod, chown, open, rename, utimensat, write) and the Linux manual:
path_resolution(7), chmod(2), chown(2), rename(2), inode(7), xattr(7).
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final

from hyperfs.paths import MAX_NAME_BYTES
from hyperfs.records import MAX_TARGET_BYTES, MAX_XATTR_BYTES, MAX_XATTRS, TYPE_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

READ: Final = 4
WRITE: Final = 2
EXECUTE: Final = 1

NAME_MAX: Final = MAX_NAME_BYTES
SYMLINK_MAX: Final = MAX_TARGET_BYTES
# ext4 stops at 65,000 names a file.
LINK_MAX: Final = 65_000
# Linux's limits for any file system: name of an attribute, its value.
XATTR_NAME_MAX: Final = 255
XATTR_SIZE_MAX: Final = 65_536
# What the records of a drive hold: all names and values of a file together, and their number.
XATTR_TOTAL_MAX: Final = MAX_XATTR_BYTES
XATTR_COUNT_MAX: Final = MAX_XATTRS
# Attributes of this name tell how the file and its drive are; no drive holds them.
XATTR_COMPUTED: Final = b"user.hyperfs."

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

_MODES: Final = 0o7777
# What whoever is not root takes from a file by changing it.
SET_ID_BITS: Final = stat.S_ISUID | stat.S_ISGID


class Credentials:
    """Who asks: user, group, and the supplementary groups, which are looked up only when needed."""

    __slots__ = ("_groups", "gid", "uid")

    def __init__(
        self, uid: int, gid: int, groups: Collection[int] | Callable[[], Collection[int]] = ()
    ) -> None:
        self.uid = uid
        self.gid = gid
        self._groups = groups

    def in_group(self, gid: int) -> bool:
        """Whether *gid* is the caller's group or one of the supplementary ones."""
        if gid == self.gid:
            return True
        if callable(self._groups):
            self._groups = self._groups()
        return gid in self._groups


ROOT: Final = Credentials(0, 0)


def permits(mode: int, uid: int, gid: int, who: Credentials, mask: int) -> bool:
    """Whether *who* has all rights of *mask* (`READ | WRITE | EXECUTE`) on such a file.

    Only one class of bits counts: the owner's for the owner, else the group's, else the others'.
    Root may read and write all, and execute what anybody may, or a directory.
    """
    if who.uid == 0:
        return not mask & EXECUTE or mode & TYPE_BITS == stat.S_IFDIR or bool(mode & 0o111)
    if who.uid == uid:
        bits = mode >> 6
    elif who.in_group(gid):
        bits = mode >> 3
    else:
        bits = mode
    return bits & mask == mask


def check_access(mode: int, uid: int, gid: int, who: Credentials, mask: int) -> None:
    """Raise EACCES unless `permits`."""
    if not permits(mode, uid, gid, who, mask):
        raise OSError(errno.EACCES, "permission denied")


def check_sticky(directory_mode: int, directory_uid: int, uid: int, who: Credentials) -> None:
    """Raise EPERM where a sticky directory forbids *who* to remove or rename *uid*'s entry."""
    if directory_mode & stat.S_ISVTX and who.uid not in (0, directory_uid, uid):
        raise OSError(errno.EPERM, "sticky directory, and somebody else's file")


def check_name(name: bytes) -> None:
    """Raise the errno for a *name* that no entry can have."""
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "file name too long")
    if not name or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not a file name")


def check_new_name(name: bytes) -> None:
    """As `check_name`; and `.` and `..` exist already."""
    check_name(name)
    if name == b"." or name == b"..":  # quicker than a tuple
        raise OSError(errno.EEXIST, "file exists")


# -- what a new or changed file is like ---------------------------------------------------------


def new_owner(
    mode: int, directory_mode: int, directory_gid: int, who: Credentials
) -> tuple[int, int]:
    """Group and mode of a file made with *mode* in such a directory.

    In a set-group-ID directory files take its group, and directories its bit as well. A file
    that somebody outside of its group makes loses a set-group-ID bit.
    """
    if not directory_mode & stat.S_ISGID:
        return who.gid, mode
    gid = directory_gid
    if mode & TYPE_BITS == stat.S_IFDIR:
        return gid, mode | stat.S_ISGID
    both = stat.S_ISGID | stat.S_IXGRP
    if mode & both == both and who.uid != 0 and not who.in_group(gid):
        mode &= ~stat.S_ISGID
    return gid, mode


def mode_after_change(mode: int) -> int:
    """The mode after content or owner changed: no set-ID bits on what can be executed.

    A set-group-ID bit without group execution means mandatory locking and stays.
    """
    if mode & TYPE_BITS == stat.S_IFDIR:
        return mode
    mode &= ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode


def mode_after_chmod(mode: int, permissions: int, gid: int, who: Credentials) -> int:
    """The mode of a file of group *gid* after *who* set its permission bits to *permissions*.

    Whoever is not in the group cannot set the set-group-ID bit: it is left out without an error.
    """
    permissions &= _MODES
    if permissions & stat.S_ISGID and who.uid != 0 and not who.in_group(gid):
        permissions &= ~stat.S_ISGID
    return mode & TYPE_BITS | permissions


def check_chmod(uid: int, who: Credentials) -> None:
    """Raise EPERM unless *who* may change the mode of a file of *uid*."""
    if who.uid not in (0, uid):
        raise OSError(errno.EPERM, "only the owner may change the mode")


def check_chown(
    uid: int, gid: int, who: Credentials, *, new_uid: int | None, new_gid: int | None
) -> None:
    """Raise EPERM unless *who* may give the file of *uid* and *gid* these owners.

    Only root gives files away; owners may choose among their groups. Saying what is already so
    is allowed to the owner.
    """
    if who.uid == 0:
        return
    if new_uid is not None and not (who.uid == uid == new_uid):
        raise OSError(errno.EPERM, "only root may change the owner")
    if new_gid is not None and (who.uid != uid or not (new_gid == gid or who.in_group(new_gid))):
        raise OSError(errno.EPERM, "only the owner may change the group, to one of their own")


def check_utime(mode: int, uid: int, gid: int, who: Credentials, *, to_now: bool) -> None:
    """Raise unless *who* may set times: the owner any, who may write the current one."""
    if who.uid in (0, uid):
        return
    if not to_now:
        raise OSError(errno.EPERM, "only the owner may set times")
    check_access(mode, uid, gid, who, WRITE)


# -- names ----------------------------------------------------------------------------------------


def check_rename_flags(flags: int) -> None:
    """Raise EINVAL for flags that are unknown or contradict one another."""
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == (
        RENAME_NOREPLACE | RENAME_EXCHANGE
    ):
        raise OSError(errno.EINVAL, "rename flags")


def check_rename(*, source_is_dir: bool, target_is_dir: bool | None, flags: int) -> None:
    """Raise the errno of a rename that the types forbid. *target_is_dir* is None: no such name.

    Whether a replaced directory is empty, and whether one would move below itself, is for
    whoever can look.
    """
    if target_is_dir is None:
        if flags & RENAME_EXCHANGE:
            raise OSError(errno.ENOENT, "nothing to exchange with")
        return
    if flags & RENAME_NOREPLACE:
        raise OSError(errno.EEXIST, "file exists")
    if flags & RENAME_EXCHANGE:
        return
    if source_is_dir and not target_is_dir:
        raise OSError(errno.ENOTDIR, "a directory cannot replace a file")
    if target_is_dir and not source_is_dir:
        raise OSError(errno.EISDIR, "a file cannot replace a directory")


def check_node(mode: int, who: Credentials, *, devices: bool) -> None:
    """Raise unless mknod(2) may make such a file; *devices* says that the mount allows them."""
    kind = mode & TYPE_BITS
    if kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
        return
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        if not devices or who.uid != 0:
            raise OSError(errno.EPERM, "device nodes need root and the option dev")
        return
    raise OSError(errno.EINVAL, "not a type that mknod makes")


def check_target(target: bytes) -> None:
    """Raise the errno for what cannot be a symbolic link's target."""
    if not target:
        raise OSError(errno.ENOENT, "an empty link target")
    if len(target) > SYMLINK_MAX:
        raise OSError(errno.ENAMETOOLONG, "link target too long")


# -- extended attributes ---------------------------------------------------------------------------


def is_user_xattr(name: bytes) -> bool:
    """Whether *name* is in the one namespace that a drive holds."""
    return name.startswith(b"user.") and len(name) > 5


def xattr_refusal(name: bytes) -> int:
    """The errno for an attribute that no drive holds, whatever the file; 0 for one it may hold.

    The kernel asks for `security.capability` before each write(2), so this is asked most of all.
    """
    if is_user_xattr(name):
        return 0
    kept_nowhere = name.startswith((b"security.", b"trusted."))
    return errno.ENODATA if kept_nowhere else errno.EOPNOTSUPP


def check_xattr(name: bytes, value: bytes, others: Collection[tuple[bytes, bytes]]) -> None:
    """Raise unless the attribute fits beside the file's *others*."""
    if not is_user_xattr(name):
        raise OSError(errno.EOPNOTSUPP, "only attributes user.* are kept")
    if name.startswith(XATTR_COMPUTED):
        raise OSError(errno.EPERM, "what the file system tells cannot be set")
    if len(name) > XATTR_NAME_MAX:
        raise OSError(errno.ERANGE, "attribute name too long")
    if len(value) > XATTR_SIZE_MAX:
        raise OSError(errno.E2BIG, "attribute value too long")
    total = len(name) + len(value) + sum(len(n) + len(v) for n, v in others)
    if total > XATTR_TOTAL_MAX or len(others) >= XATTR_COUNT_MAX:
        raise OSError(errno.ENOSPC, "too many attributes")
