"""Operations on open directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from hyperfs.records import ROOT_ID
from hyperfs.vfs.files import FileOperations
from hyperfs.vfs.handles import DirectoryHandle
from hyperfs.vfs.listings import START, Listed, Listing
from hyperfs.vfs.rules import READ
from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperfs.vfs.rules import Credentials


S = TypeVar("S")


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
        if position == handle.end and position:
            # Many a handle stays open afterwards.
            handle.listing = None
            return []
        at = max(position, START)
        listing = handle.listing = self._listing(handle, at)
        stamp = listing.stamp
        if at == START:
            handle.began = stamp
        end = at + handle.wanted
        if not listing.whole and listing.end < end:
            after = listing.names[-1] if listing.names else handle.name_before(at)
            self._read_on(handle.ino, listing, after, end - listing.end)
        handle.last = listing.whole and listing.end <= end
        if handle.last and handle.began == stamp:
            self.inode(handle.ino).known(stamp).names = listing.end - START
        listed = listing.entries(at, end)
        if position < START:
            listed[:0] = self._dots(handle.ino, position)
        handle.offered = len(listed)
        return listed

    def _listing(self, handle: DirectoryHandle[S], at: int) -> Listing[S]:
        """One that goes on at a position of the handle, and shows what is there now."""
        after = handle.name_before(at)
        listing = self.listings.get(handle.ino) if at == START else handle.listing
        live = self.live
        stamp = live.staging.stamp
        if (
            listing is not None
            and listing.stamp == stamp
            # An open file changes without the stamp.
            and (listing.opened == live.opened or not live.files)
            and listing.holds(at, after)
        ):
            if not listing.kept:
                # Nobody else has it, and who has it seldom goes back.
                listing.drop_before(at)
            return listing
        listing = Listing(at, stamp, live.opened)
        if at == START:
            self.listings.keep(handle.ino, listing)
        return listing

    def _read_on(self, ino: int, listing: Listing[S], after: bytes, count: int) -> None:
        """Add the next entries of a listing, which follow the name *after*."""
        page, lasting = self.live.page(ino, after, count)
        told, attributes = self.told, self.attributes
        listing.names += [name for name, _ in page]
        listing.ids += [entry.id for _, entry in page]
        for _, entry in page:
            known = told.get(entry.id)
            shown = known[1] if known is not None and known[0] is entry else attributes(entry)
            listing.shown.append(shown)
        listing.whole = len(page) < count
        if listing.kept:
            self.listings.grown(len(page))
        if not lasting:
            listing.spend()

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
        directory, inodes, listing = handle.ino, self.inodes, handle.listing
        hot = inodes.hot
        # Nothing has moved since it was told of the same listing before.
        placed = listing is not None and names[-1][2] <= listing.placed
        for name, _, _, ino in names:
            inode = hot.get(ino) or inodes.find(ino)
            if inode is None:
                inodes.add(ino, (directory, name))
                continue
            if not placed and inode.location is not SHARED:
                # Of a file with several names this is not the place; `entry_at` will see.
                inode.location = (directory, name)
                inode.orphan = None
            inode.lookups += 1
        if listing is not None and names[0][2] <= listing.placed + 1:
            listing.placed = max(listing.placed, names[-1][2])

    def releasedir(self, number: int) -> None:
        """Close a listing."""
        self.handles.directories.pop(number)

    async def fsyncdir(self, number: int, *, data_only: bool) -> None:
        """Return when all changes of names made so far are durable and published."""
        del data_only
        self.handles.directories[number]
        if not self.read_only:
            await self.drive.sync()
