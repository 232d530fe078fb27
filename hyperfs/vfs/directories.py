"""Operations on open directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from hyperfs.records import ROOT_ID
from hyperfs.vfs.files import FileOperations
from hyperfs.vfs.handles import DirectoryHandle
from hyperfs.vfs.rules import READ
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperfs.vfs.rules import Credentials


S = TypeVar("S")
# One entry of a listing: name, attributes, position after it (where to go on), id of its file.
Listed = tuple[bytes, S, int, int]


class DirectoryOperations(FileOperations[S]):
    """See the module. A listing shows each name once, as it is when it is told."""

    def opendir(self, ino: int, who: Credentials) -> int:
        """Open a directory for listing: its handle. Raises ENOTDIR, EACCES, ESTALE."""
        self.check(self.directory_of(ino), who, READ)
        return self.handles.directories.add(DirectoryHandle(ino))

    def readdir(self, number: int, position: int) -> list[Listed[S]]:
        """Some entries from *position* on (0 is the start), `.` and `..` first; none at the end.

        Call `remember` with those that were passed on. How many come follows from how many were
        passed on last time: what is not is looked up again, for by then it may have changed.
        """
        handle = self.handles.directories[number]
        listed: list[Listed[S]] = []
        if position == handle.end and position:
            return listed
        if position < 2:
            listed = self._dots(handle.ino, position)
        after = handle.name_before(position)
        told, attributes = self.told, self.attributes
        at = max(position, 2)
        page = self.live.page(handle.ino, after, handle.wanted)
        handle.last = len(page) < handle.wanted
        stamp = self.live.staging.stamp
        if not after:
            handle.began = stamp
        if handle.last and handle.began == stamp:
            self.inode(handle.ino).known(stamp).names = at - 2 + len(page)
        for name, entry in page:
            at, ino = at + 1, entry.id
            known = told.get(ino)
            shown = known[1] if known is not None and known[0] is entry else attributes(entry)
            listed.append((name, shown, at, ino))
        handle.offered = len(listed)
        return listed

    def _dots(self, ino: int, position: int) -> list[Listed[S]]:
        listed = []
        if position < 1:
            own = self.attributes(self.entry_of(ino))
            listed.append((b".", own, 1, ino))
        location = self.inodes.peek(ino)
        parent = location[0] if isinstance(location, tuple) and ino != ROOT_ID else ino
        above = parent if parent in self.inodes else ino
        listed.append((b"..", self.attributes(self.entry_of(above)), 2, above))
        return listed

    def remember(self, number: int, listed: Sequence[Listed[S]]) -> None:
        """These entries, the first ones of the last `readdir`, were passed on: they count as known,
        except for `.` and `..`."""
        handle = self.handles.directories[number]
        handle.fitted(len(listed))
        names = listed[max(0, DirectoryHandle.FIRST_NAME - listed[0][2]) :] if listed else ()
        if not names:
            return
        handle.tell(names[0][2], [name for name, _, _, _ in names])
        directory, inodes = handle.ino, self.inodes
        hot = inodes.hot
        for name, _, _, ino in names:
            inode = hot.get(ino) or inodes.find(ino)
            if inode is None:
                inodes.add(ino, (directory, name))
                continue
            if inode.location is not SHARED:
                # Of a file with several names this is not the place; `entry_at` will see.
                inode.location = (directory, name)
                inode.orphan = None
            inode.lookups += 1

    def releasedir(self, number: int) -> None:
        """Close a listing."""
        self.handles.directories.pop(number)

    async def fsyncdir(self, number: int, *, data_only: bool) -> None:
        """Return when all changes of names made so far are durable and published."""
        del data_only
        self.handles.directories[number]
        if not self.read_only:
            await self.drive.sync()
