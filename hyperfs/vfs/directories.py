"""Operations on open directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hyperfs.records import ROOT_ID
from hyperfs.vfs.files import FileOperations
from hyperfs.vfs.handles import DirectoryHandle
from hyperfs.vfs.rules import READ
from hyperfs.vfs.tree import atomic
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperfs.vfs.attributes import Attributes
    from hyperfs.vfs.rules import Credentials


class Listed(NamedTuple):
    """One entry of a listing; `position` is where to go on after it."""

    name: bytes
    attributes: Attributes
    position: int


class DirectoryOperations(FileOperations):
    """See the module. A listing shows each name once, as it is when it is told."""

    @atomic
    def opendir(self, ino: int, who: Credentials) -> int:
        """Open a directory for listing: its handle. Raises ENOTDIR, EACCES, ESTALE."""
        self.check(self.directory_of(ino), who, READ)
        return self.handles.directories.add(DirectoryHandle(ino))

    @atomic
    def readdir(self, number: int, position: int) -> list[Listed]:
        """Some entries from *position* on (0 is the start), `.` and `..` first; none at the end.

        Call `remember` with those that were passed on. How many come follows from how many were
        passed on last time: what is not is looked up again, for by then it may have changed.
        """
        handle = self.handles.directories[number]
        listed: list[Listed] = []
        if position < 2:
            listed = self._dots(handle.ino, position)
        after = handle.name_before(position)
        found = self.live.page(handle.ino, after, handle.wanted)
        shown = self.attributes
        listed += [
            Listed(name, shown(entry), at)
            for at, (name, entry) in enumerate(found, max(position, 2) + 1)
        ]
        handle.offered = len(listed)
        return listed

    def _dots(self, ino: int, position: int) -> list[Listed]:
        listed = []
        if position < 1:
            own = self.attributes(self.entry_of(ino))
            listed.append(Listed(b".", own, 1))
        location = self.inodes.peek(ino)
        parent = location[0] if isinstance(location, tuple) and ino != ROOT_ID else ino
        above = parent if parent in self.inodes else ino
        listed.append(Listed(b"..", self.attributes(self.entry_of(above)), 2))
        return listed

    def remember(self, number: int, listed: Sequence[Listed]) -> None:
        """These entries, the first ones of the last `readdir`, were passed on: they count as known,
        except for `.` and `..`."""
        handle = self.handles.directories[number]
        handle.fitted(len(listed))
        names = [each for each in listed if each.position > 2]
        if not names:
            return
        handle.tell(names[0].position, [each.name for each in names])
        directory, inodes = handle.ino, self.inodes
        for name, attributes, _ in names:
            inode = inodes.find(attributes.ino)
            if inode is None:
                inodes.add(attributes.ino, (directory, name))
                continue
            if inode.location is not SHARED:
                # Of a file with several names this is not the place; `entry_at` will see.
                inode.location = (directory, name)
                inode.orphan = None
            inode.lookups += 1

    async def releasedir(self, number: int) -> None:
        """Close a listing."""
        self.handles.directories.pop(number)

    async def fsyncdir(self, number: int, *, data_only: bool) -> None:
        """Return when all changes of names made so far are durable and published."""
        del data_only
        self.handles.directories[number]
        if not self.read_only:
            await self.drive.sync()
