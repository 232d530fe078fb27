"""Operations on attributes: getattr, setattr, access, readlink, statfs."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from hyperfs.records import Entry
from hyperfs.vfs import rules
from hyperfs.vfs.directories import DirectoryOperations
from hyperfs.vfs.rules import SET_ID_BITS, WRITE

if TYPE_CHECKING:
    from hyperfs.vfs.attributes import SetAttributes
    from hyperfs.vfs.inodes import Inode
    from hyperfs.vfs.rules import Credentials

# utimensat(2) with UTIME_NOW arrives as a time: one this close to now is taken for it.
_NOW_NS: Final = 2_000_000_000


class StatFs(NamedTuple):
    """As statvfs(3): sizes in units of `block_size` bytes."""

    block_size: int
    blocks: int
    free_blocks: int
    available_blocks: int
    files: int
    free_files: int
    name_max: int


S = TypeVar("S")


class AttributeOperations(DirectoryOperations[S]):
    """See the module."""

    def getattr(self, ino: int) -> S:
        """The attributes of a known inode. Raises ESTALE."""
        return self.attributes(self.entry_of(ino))

    def setattr(
        self, ino: int, changes: SetAttributes, who: Credentials, number: int | None = None
    ) -> S:
        """Change attributes, as chmod, chown, utimensat and truncate do; what they are then.

        *number* is the handle that ftruncate(2) was called on. All of *changes* are made, or none.

        Raises EROFS, EPERM, EACCES, EISDIR, EINVAL, EFBIG, ESTALE.
        """
        self.check_writable()
        inode = self.inode(ino)
        entry = self.entry_at(inode)
        if self._checks and who.uid != 0:
            self._check_setattr(entry, changes, who, number)
        if changes.size is not None:
            self._check_resizable(entry, changes.size)
            self._resize(inode, entry, changes.size)
            entry = self.entry_at(inode)
        entry = _changed(entry, changes, who, self.now_ns())
        self.stage(inode, entry)
        if changes.atime_ns is not None:
            self.set_access_time(ino, changes.atime_ns)
        inode.set_id = bool(entry.mode & SET_ID_BITS)
        if not inode.opens:
            self.live.schedule_commit()
        return self.attributes(entry)

    def _check_setattr(
        self, entry: Entry, changes: SetAttributes, who: Credentials, number: int | None
    ) -> None:
        mode, uid, gid = self.presentation.rights(entry)
        if changes.mode is not None:
            rules.check_chmod(uid, who)
        if changes.uid is not None or changes.gid is not None:
            rules.check_chown(uid, gid, who, new_uid=changes.uid, new_gid=changes.gid)
        writing = number is not None and self.handles.files[number].writable
        if changes.size is not None and not writing:
            self.check(entry, who, WRITE)
        times = [t for t in (changes.atime_ns, changes.mtime_ns) if t is not None]
        if times and changes.size is None:
            now = self.now_ns()
            to_now = len(times) == 2 and all(abs(t - now) < _NOW_NS for t in times)
            rules.check_utime(mode, uid, gid, who, to_now=to_now)

    @staticmethod
    def _check_resizable(entry: Entry, size: int) -> None:
        if not entry.is_file:
            raise OSError(errno.EISDIR if entry.is_dir else errno.EINVAL, "no regular file")
        if size < 0:
            raise OSError(errno.EINVAL, "a negative size")

    def _resize(self, inode: Inode, entry: Entry, size: int) -> None:
        file = self.live.open_file(entry, inode.location, current=True)
        try:
            file.truncate(size)
        finally:
            file.release()

    def access(self, ino: int, mask: int, who: Credentials) -> bool:
        """Whether *who* may read, write, execute (search) the file, as access(2) asks."""
        entry = self.entry_of(ino)
        if mask & WRITE and self.read_only and not _is_special(entry.mode):
            raise OSError(errno.EROFS, "read-only file system")
        return rules.permits(*self.presentation.rights(entry), who, mask & 7)

    def readlink(self, ino: int) -> bytes:
        """The target of a symbolic link. Raises EINVAL for anything else."""
        target = self.entry_of(ino).target
        if target is None:
            raise OSError(errno.EINVAL, "no symbolic link")
        return target

    def statfs(self) -> StatFs:
        """The disk that holds the store: what is free there is what can still be written.

        Costs one system call, whatever the drive's size.
        """
        if self._disk is None:
            return StatFs(4096, 1 << 28, 1 << 27, 1 << 27, 1 << 24, 1 << 23, rules.NAME_MAX)
        disk = os.statvfs(self._disk)
        return StatFs(
            disk.f_frsize,
            disk.f_blocks,
            disk.f_bfree,
            disk.f_bavail,
            disk.f_files,
            disk.f_ffree,
            rules.NAME_MAX,
        )


def _is_special(mode: int) -> bool:
    """Whether writing to it changes nothing in the file system."""
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _changed(entry: Entry, changes: SetAttributes, who: Credentials, now: int) -> Entry:
    """What setattr makes of a record, which has the new size already."""
    mode, uid, gid, mtime_ns = entry[1:5]
    named = changes.uid is not None or changes.gid is not None
    if changes.uid is not None:
        uid = changes.uid
    if changes.gid is not None:
        gid = changes.gid
    resized = changes.size is not None
    timed = changes.atime_ns is not None or changes.mtime_ns is not None
    nothing = changes.mode is None and not resized and not timed
    if named or nothing or (resized and who.uid != 0):
        mode = rules.mode_after_change(mode)
    if changes.mode is not None:
        mode = rules.mode_after_chmod(mode, changes.mode, gid, who)
    if changes.mtime_ns is not None:
        mtime_ns = changes.mtime_ns
    elif resized:
        mtime_ns = now
    return Entry(entry.id, mode, uid, gid, mtime_ns, now, *entry[6:])
