"""`Tree`: what all operations share: the drive, the inodes, how entries are shown and who may what.

Entries are never kept here. Whoever changes one asks the drive for it, computes, and stages the
result. All operations on names and attributes are plain functions that wait for nothing, so nothing
else changes between. They look up all they need before they change anything; when a block of the
index turns out not to be here they raise `BlocksMissing`, and `Tree.complete` fetches it and begins
again.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic, ParamSpec, Protocol, TypeVar

from hyperfs.index.node import BlocksMissing
from hyperfs.records import ROOT_ID, Entry
from hyperfs.vfs.attributes import Presentation, looks_same
from hyperfs.vfs.handles import HandleTable
from hyperfs.vfs.inodes import Inode, InodeTable
from hyperfs.vfs.listings import Listings
from hyperfs.vfs.rules import EXECUTE, WRITE, check_access
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperfs.drive import Drive
    from hyperfs.vfs.attributes import Show
    from hyperfs.vfs.rules import Credentials


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


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


# How far up the names of directories are followed: somebody else's drive may have a circle.
_MOST_NAMES: Final = 64
# Of how many files the attributes are kept as they were told last, some 800 bytes each.
TOLD_INODES: Final = 32_768
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


class Tree(Generic[S]):
    """The state of one mounted drive. See the module.

    *show* makes what operations answer of a file's attributes, as *presentation* has them.
    *read_only* refuses changes whatever the drive allows. *check_permissions* makes the operations
    decide what the caller may do; otherwise the kernel does (`default_permissions`). *devices*
    allows device nodes. *disk* is a path on the disk that statfs tells about, None for memory.
    """

    def __init__(
        self,
        drive: Drive,
        show: Show[S],
        *,
        presentation: Presentation | None = None,
        read_only: bool = False,
        check_permissions: bool = True,
        devices: bool = False,
        disk: str | os.PathLike[str] | None = None,
        invalidations: Invalidations | None = None,
    ) -> None:
        self.drive: Final = drive
        self.live: Final = drive.tree
        self.read_only: Final = read_only or not drive.writable
        self.presentation: Final = presentation or Presentation()
        self.show: Final = show
        self.invalidations: Invalidations = invalidations or NoInvalidations()
        self.inodes: Final = InodeTable()
        self.handles: Final[HandleTable[S]] = HandleTable()
        # Names that the kernel remembers as missing, oldest first.
        self.missing: Final[dict[tuple[int, bytes], None]] = {}
        # What was shown of which record: who lists a directory does so again.
        self.told: dict[int, tuple[Entry, S]] = {}
        self.listings: Final[Listings[S]] = Listings()
        self._checks: Final = check_permissions
        self._devices: Final = devices
        self._disk: Final = disk
        self._first_root: Final = _default_root()
        # The kernel knows the root without ever asking for it.
        self.inodes.known(ROOT_ID, SHARED).lookups = 1

    async def complete(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What *operation* answers, once the blocks of the index it looks at are here. Suspends
        only to fetch them.

        Beside what *operation* raises: TooSlowError, no peer within the drive's patience.
        """
        try:
            return operation(*args, **kwargs)
        except BlocksMissing:
            return await self.live.metadata_blocks.complete(partial(operation, *args, **kwargs))

    # -- looking -------------------------------------------------------------------------------

    def inode(self, ino: int) -> Inode:
        """The inode of a number. Raises ESTALE for one that nobody was told."""
        inode = self.inodes.hot.get(ino) or self.inodes.find(ino)
        if inode is None:
            raise OSError(errno.ESTALE, "unknown inode")
        return inode

    def entry_of(self, ino: int) -> Entry:
        """The record of a known inode as it is now.

        Raises ESTALE when nothing is known of the number, or its file went away unseen;
        BlocksMissing, DecodeError, as all that looks something up.
        """
        return self.entry_at(self.inode(ino))

    def entry_at(self, inode: Inode) -> Entry:
        """The same, of an inode that was looked up already."""
        ino = inode.ino
        file = self.live.files.get(ino)
        if file is not None:
            return file.entry
        location = inode.location
        if location is None:
            last = inode.last()
            if last is not None:
                return last
        elif location is SHARED:
            entry = self.live.shared(ino)
            if entry is not None:
                return entry
            if ino == ROOT_ID:
                return self._first_root
        else:
            found = self.live.resolve(*location)
            if found is not None and found[0].id == ino:
                if found[1] is SHARED:
                    # It was told of by a listing, which does not say who has several names.
                    self.inodes.known(ino, SHARED)
                return found[0]
        raise OSError(errno.ESTALE, "the file went away")

    def record_at(self, inode: Inode) -> Entry:
        """As `entry_at`, of a directory, whose record is kept until something changes."""
        stamp = self.live.staging.stamp
        if inode.known_at != stamp:
            inode.known(stamp)
        record = inode.record
        if record is None:
            record = inode.record = self.entry_at(inode)
        return record

    def directory_of(self, ino: int) -> Entry:
        """The record of a directory. Raises ENOTDIR, ESTALE."""
        entry = self.entry_of(ino)
        if not entry.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        return entry

    def attributes(self, entry: Entry) -> S:
        """What stat(2) shows of *entry*."""
        ino = entry.id
        told = self.told.get(ino)
        if told is not None and told[0] is entry:
            return told[1]
        file = self.live.files.get(ino)
        if told is not None and file is None and looks_same(told[0], entry):
            shown = told[1]
        else:
            atime_ns = self.inodes.access_times.get(ino)
            used = None if file is None else file.used_bytes
            shown = self.presentation.show(self.show, entry, atime_ns, used)
        self.told[ino] = entry, shown
        if len(self.told) > TOLD_INODES:
            for oldest in list(islice(self.told, TOLD_INODES // 2)):
                del self.told[oldest]
        return shown

    def set_access_time(self, ino: int, time_ns: int) -> None:
        """Show another access time of *ino*, in nanoseconds."""
        self.inodes.set_access_time(ino, time_ns)
        self.told.pop(ino, None)

    def path_of(self, ino: int) -> str:
        """A name for people, as in `/folder/file`, of an inode that may be known; for the log."""
        names: list[bytes] = []
        while ino != ROOT_ID:
            location = self.inodes.peek(ino)
            if not isinstance(location, tuple) or len(names) == _MOST_NAMES:
                names.append(b"(inode %d)" % ino)
                break
            ino, name = location
            names.append(name)
        return "/" + os.fsdecode(b"/".join(reversed(names)))

    # -- deciding ------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise EROFS on a mount that changes nothing."""
        if self.read_only:
            raise OSError(errno.EROFS, "read-only file system")

    def check(self, entry: Entry, who: Credentials, mask: int) -> None:
        """Raise EACCES unless *who* has the rights of *mask*, where that is ours to decide."""
        if self._checks and who.uid != 0:
            check_access(*self.presentation.rights(entry), who, mask)

    def changeable_directory(self, ino: int, who: Credentials) -> tuple[Inode, Entry]:
        """A directory in which *who* may make and remove names, and its record.

        Raises EROFS, ENOTDIR, EACCES, ENOENT for one that was removed, ESTALE.
        """
        self.check_writable()
        if self.live.before_first_change is not None:
            # It may move the tree to a newer version, which has to be what is looked at.
            self.live.check_writable()
        inode = self.inode(ino)
        directory = self.record_at(inode)
        if not stat.S_ISDIR(directory.mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        if inode.location is None:
            raise OSError(errno.ENOENT, "the directory was removed")
        if who.uid:
            self.check(directory, who, WRITE | EXECUTE)
        return inode, directory

    # -- changing ------------------------------------------------------------------------------

    def stage(self, inode: Inode, entry: Entry) -> None:
        """Stage *entry*: the record that `entry_at` just returned, with other attributes, which are
        known to be good."""
        file = self.live.files.get(entry.id)
        location = inode.location
        if file is not None:
            file.change(entry)
        elif location is None:
            inode.orphan = entry
        else:
            self.live.put_attributes(location, entry)

    def touch(self, inode: Inode, directory: Entry, now: int, more: int | None = None) -> None:
        """Names in a directory that `changeable_directory` just returned changed at *now*: there
        are so many *more* now, if that is told.

        Within one version its times have the grain that those of the kernel's file systems have: of
        many names made in a row not each costs one more record.
        """
        location, before = inode.location, directory.mtime_ns
        staging = self.live.staging
        layer = staging.staged.number
        recent = 0 <= now - before < GRAIN_NS and before == directory.ctime_ns
        if not recent or inode.touched != layer:
            inode.touched = layer
            inode.record = directory = directory._replace(mtime_ns=now, ctime_ns=now)
            if location is None:
                inode.orphan = directory
            else:
                self.live.put_attributes(location, directory)
        inode.known_at = staging.stamp
        if more is None:
            inode.names = -1
        elif inode.names >= 0:
            inode.names += more

    # The wall clock, in nanoseconds.
    now_ns = staticmethod(time.time_ns)


def _default_root() -> Entry:
    """The root directory of a drive that has no record of it: everybody's, and old."""
    return Entry(ROOT_ID, stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0)
