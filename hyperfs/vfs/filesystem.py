"""`FileSystem`: a drive as a POSIX file system, in inode terms, raising `OSError`.

Everything that is known outside (by the kernel, for an hour) is either changed through these
operations, or told to the `Invalidations` after look-ups show the change: what another machine
wrote to the drive (`follow_changes`), and what this process wrote beside the mount
(`changed_outside`).
"""

from __future__ import annotations

import logging
import stat
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from corestore import CorestoreError
from hyperfs.vfs.tree import InvalidateEntry, InvalidateInode
from hyperfs.vfs.xattrs import XattrOperations
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from hyperfs.drive import Changed, EntryChange
    from hyperfs.records import Entry

logger: Final = logging.getLogger("hyperfs")


S = TypeVar("S")


class FileSystem(XattrOperations[S]):
    """All operations; see the module, and `Tree` for the parameters.

    Between operations it holds the inodes that were told and not yet forgotten, and what is open.
    """

    def forget(self, ino: int, count: int) -> None:
        """Take back so many lookups of an inode."""
        self.inodes.forget(ino, count)

    def path_of_handle(self, number: int, *, directory: bool) -> str:
        """As `path_of`, of what a handle has open."""
        if directory:
            return self.path_of(self.handles.directories[number].ino)
        return self.path_of(self.handles.files[number].inode.ino)

    # -- changes that come from elsewhere ----------------------------------------------------------

    async def follow_changes(self) -> None:
        """Tell what others change in the drive, until cancelled."""
        with self.drive.watch_changes() as changes:
            async for change in changes:
                await self.apply(change)

    async def apply(self, changed: Changed) -> None:
        """Take note of a new version that look-ups show by now."""
        if not changed.complete:
            logger.info("version %d: too much changed to tell, all is asked anew", changed.version)
            await self._doubt_everything()
            return
        for change in changed.changes:
            self._entry_gone(change)
        for change in changed.changes:
            self._entry_there(change)

    def _entry_gone(self, change: EntryChange) -> None:
        """First, so that a file that moved is not taken for one that went."""
        old, new = change.old, change.new
        if old is None or (new is not None and new.id == old.id):
            return
        inode = self.inodes.find(old.id)
        if inode is None:
            return
        if change.directory is not None:
            place = (change.directory, change.name)
            gone = inode.location == place
        else:
            gone = not isinstance(inode.location, tuple)
        if gone:
            inode.location = None
            inode.orphan = old._replace(nlink=0)
            self._invalidate_inode(old, None)

    def _entry_there(self, change: EntryChange) -> None:
        old, new = change.old, change.new
        same = old is not None and new is not None and old.id == new.id
        if change.directory is not None and change.name is not None:
            if not same:
                self._invalidate_entry(change.directory, change.name)
            inode = None if new is None else self.inodes.find(new.id)
            if inode is not None and inode.location is not SHARED:
                inode.location = (change.directory, change.name)
                inode.orphan = None
        if new is not None and new.id in self.inodes:
            if change.directory is None:
                # One of its names, by which a listing told of it, may have gone.
                self.inodes.known(new.id, SHARED)
            self._invalidate_inode(new, old if same else None)

    def _invalidate_entry(self, directory: int, name: bytes) -> None:
        self.missing.pop((directory, name), None)
        if directory in self.inodes:
            self.invalidations.put(InvalidateEntry(directory, name))

    def _invalidate_inode(self, new: Entry, old: Entry | None) -> None:
        """The kernel drops pages by itself when an inode it asks about has another time or size.

        For an open file that is left to it: dropping its pages at once would wait for reads and
        writes under way. Only where it could not see the change they are dropped all the same.
        """
        content_same = old is not None and _same_content(old, new)
        visible = old is None or (old.size, old.mtime_ns) != (new.size, new.mtime_ns)
        inode = self.inodes.find(new.id)
        opened = inode is not None and inode.opens > 0
        attr_only = content_same or (opened and visible) or not stat.S_ISREG(new.mode)
        self.invalidations.put(InvalidateInode(new.id, attr_only))

    async def _doubt_everything(self) -> None:
        """Take back all names and attributes that the kernel may hold.

        A directory that is still there keeps its name: taking that back would take away the working
        directory of whoever is in it.
        """
        for directory, name in self.missing:
            self.invalidations.put(InvalidateEntry(directory, name))
        self.missing.clear()
        places = {ino: self.inodes.peek(ino) for ino in self.inodes}
        directories = {place[0] for place in places.values() if isinstance(place, tuple)}
        for ino, place in places.items():
            if isinstance(place, tuple) and not (
                ino in directories and await self._still_there(ino, place)
            ):
                self.invalidations.put(InvalidateEntry(*place))
            self.invalidations.put(InvalidateInode(ino, attr_only=ino in directories))

    async def _still_there(self, ino: int, place: tuple[int, bytes]) -> bool:
        try:
            found = await self.drive.resolve(*place)
        except (CorestoreError, trio.TooSlowError, OSError) as error:
            logger.info("cannot look again for %s: %s", self.path_of(ino), error)
            return False
        return found is not None and found[0].id == ino

    async def changed_outside(self, directory: int, name: bytes) -> None:
        """Something beside the mount changed this name, or what it leads to, in the same drive."""
        found = await self.drive.resolve(directory, name)
        known = directory in self.inodes
        if found is not None:
            entry, location = found
            if entry.id in self.inodes and self.inodes.peek(entry.id) == location:
                self._invalidate_inode(entry, None)
                known = False
        if known:
            self.invalidations.put(InvalidateEntry(directory, name))
        if directory in self.inodes:
            self.invalidations.put(InvalidateInode(directory, attr_only=True))


def _same_content(old: Entry, new: Entry) -> bool:
    return (
        old.size == new.size
        and not (old.grouped or new.grouped)
        and old.extents == new.extents
        and old.inline == new.inline
        and old.target == new.target
    )
