"""`Tree`: what all operations share: the drive, the inodes, how entries are shown and who may what.

Entries are never kept here. Whoever changes one asks the drive for it, computes, and stages the
result; under `changing`, which all changes of names and attributes hold, nothing else changes
between. Writes to open files do not take it: they go to the `OpenFile`, which is the one place for
its size and content.
"""

from __future__ import annotations

import errno
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from hyperfs.records import ROOT_ID, Entry
from hyperfs.vfs.attributes import Attributes, Presentation
from hyperfs.vfs.handles import HandleTable
from hyperfs.vfs.inodes import Inode, InodeTable
from hyperfs.vfs.locks import QuickLock
from hyperfs.vfs.rules import EXECUTE, WRITE, check_access
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    import os

    from typing_extensions import Unpack

    from hyperfs.drive import Drive
    from hyperfs.vfs.rules import Credentials
    from hyperfs.writer import Attributes as AttributeChanges


@dataclass(frozen=True, slots=True)
class InvalidateInode:
    """What is known of *ino* is out of date: attributes and, unless *attr_only*, content."""

    ino: int
    attr_only: bool


@dataclass(frozen=True, slots=True)
class InvalidateEntry:
    """What is known of a name in the directory *parent* is out of date."""

    parent: int
    name: bytes


# How fine the times of directories are: a tick of the kernel's clock.
GRAIN_NS: Final = 4_000_000

Invalidation = InvalidateInode | InvalidateEntry


class Invalidations(Protocol):
    """Where the kernel's notifier takes its work from."""

    def put(self, item: Invalidation) -> None:
        """Queue an invalidation. Never waits, and never runs it in the caller's place."""
        ...


class NoInvalidations:
    """For a file system of which nobody keeps copies."""

    def put(self, item: Invalidation) -> None:
        """Drop it."""


class Tree:
    """The state of one mounted drive. See the module.

    *read_only* refuses changes whatever the drive allows. *check_permissions* makes the operations
    decide what the caller may do; otherwise the kernel does (`default_permissions`). *devices*
    allows device nodes. *disk* is a path on the disk that statfs tells about, None for memory.
    """

    def __init__(
        self,
        drive: Drive,
        *,
        presentation: Presentation | None = None,
        read_only: bool = False,
        check_permissions: bool = True,
        devices: bool = False,
        disk: str | os.PathLike[str] | None = None,
        invalidations: Invalidations | None = None,
    ) -> None:
        self.drive: Final = drive
        self.read_only: Final = read_only or not drive.writable
        self.presentation: Final = presentation or Presentation()
        self.invalidations: Invalidations = invalidations or NoInvalidations()
        self.inodes: Final = InodeTable()
        self.handles: Final = HandleTable()
        self.changing: Final = QuickLock()
        # Names that the kernel remembers as missing, oldest first.
        self.missing: Final[dict[tuple[int, bytes], None]] = {}
        self._checks: Final = check_permissions
        self._devices: Final = devices
        self._disk: Final = disk
        self._first_root: Final = _default_root()
        # The kernel knows the root without ever asking for it.
        self.inodes.known(ROOT_ID, SHARED).lookups = 1

    # -- looking -------------------------------------------------------------------------------

    def inode(self, ino: int) -> Inode:
        """The inode of a number. Raises ESTALE for one that nobody was told."""
        inode = self.inodes.find(ino)
        if inode is None:
            raise OSError(errno.ESTALE, "unknown inode")
        return inode

    async def entry_of(self, ino: int) -> Entry:
        """The record of a known inode as it is now. Suspends only for blocks that are not local.

        Raises ESTALE when nothing is known of the number, or its file went away unseen.
        """
        inode = self.inode(ino)
        if inode.file is not None:
            return inode.file.entry
        location = inode.location
        if location is None:
            if inode.orphan is not None:
                return inode.orphan
        elif location is SHARED:
            entry = await self.drive.shared(ino)
            if entry is not None:
                return entry
            if ino == ROOT_ID:
                return self._first_root
        else:
            found = await self.drive.resolve(*location)
            if found is not None and found[0].id == ino:
                if found[1] != location:
                    # It was told of by a listing, which does not say who has several names.
                    self.inodes.known(ino, found[1])
                return found[0]
        raise OSError(errno.ESTALE, "the file went away")

    async def directory_of(self, ino: int) -> Entry:
        """The record of a directory. Raises ENOTDIR, ESTALE."""
        entry = await self.entry_of(ino)
        if not entry.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        return entry

    def attributes(self, entry: Entry) -> Attributes:
        """What stat(2) shows of *entry*."""
        ino = entry.id
        return self.presentation.attributes(
            entry,
            atime_ns=self.inodes.access_time(ino),
            settled=self.drive.opened(ino) is None,
        )

    # -- deciding ------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise EROFS on a mount that changes nothing."""
        if self.read_only:
            raise OSError(errno.EROFS, "read-only file system")

    def check(self, entry: Entry, who: Credentials, mask: int) -> None:
        """Raise EACCES unless *who* has the rights of *mask*, where that is ours to decide."""
        if self._checks and who.uid != 0:
            shown = self.attributes(entry)
            check_access(shown.mode, shown.uid, shown.gid, who, mask)

    async def changeable_directory(self, ino: int, who: Credentials) -> Entry:
        """The record of a directory in which *who* may make and remove names.

        Raises EROFS, ENOTDIR, EACCES, ENOENT for one that was removed, ESTALE.
        """
        self.check_writable()
        directory = await self.directory_of(ino)
        if self.inode(ino).location is None:
            raise OSError(errno.ENOENT, "the directory was removed")
        self.check(directory, who, WRITE | EXECUTE)
        return directory

    # -- changing ------------------------------------------------------------------------------

    def stage(self, entry: Entry, **changes: Unpack[AttributeChanges]) -> Entry:
        """Change attributes of the record that `entry_of` just returned; the new record.

        Does not wait: with no await since `entry_of`, nothing is overwritten.
        """
        inode = self.inode(entry.id)
        file = inode.file or self.drive.opened(entry.id)
        if file is not None:
            file.update(**changes)
            return file.entry
        entry = entry._replace(**changes)
        location = inode.location
        if location is SHARED:
            self.drive.put_shared(entry)
        elif location is None:
            inode.orphan = entry
        else:
            self.drive.put(*location, entry)
        return entry

    def touch(self, directory: Entry, now: int) -> None:
        """Names in the directory whose record `entry_of` just returned changed at *now*.

        Within one version its times have the grain that those of the kernel's file systems have: of
        many names made in a row not each costs one more record.
        """
        inode = self.inode(directory.id)
        location = inode.location
        recent = directory.mtime_ns == directory.ctime_ns and now - directory.mtime_ns < GRAIN_NS
        if recent and now >= directory.mtime_ns and self.drive.waits(directory.id, location):
            return
        entry = directory._replace(mtime_ns=now, ctime_ns=now)
        if location is None:
            inode.orphan = entry
        else:
            self.drive.put_times(location, entry)

    @staticmethod
    def now_ns() -> int:
        """The wall clock, in nanoseconds."""
        return time.time_ns()


def _default_root() -> Entry:
    """The root directory of a drive that has no record of it: everybody's, and old."""
    return Entry(ROOT_ID, stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0)
