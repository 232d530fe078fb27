"""The inodes somebody knows: lookup counts, where their records lie, what is open.

An inode number is the id of a file. The kernel counts what it was told (`lookup`, `create`,
accepted directory entries, ...) and gives counts back with `forget`; until then a number must lead
to its file, under whatever name it has by now, or to nothing else. So the table holds, for each
known number, the place of the record, never the record itself: that is the drive's, always fresh.

A `find` over a million files makes the kernel know a million numbers. Inodes that are neither open
nor without a name are therefore packed (`hyperfs.vfs.packed`), and unpacked when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hyperfs.vfs.packed import MAX_COUNT, PackedInodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperfs.records import Entry
    from hyperfs.writer import Location, OpenFile

# How many unpacked inodes are kept before those at rest are packed.
HOT_INODES: Final = 32_768
# How many access times that differ from the modification time are remembered.
ACCESS_TIMES: Final = 65_536


class Inode:
    """A file, directory or link that the kernel knows, or that is open.

    Look it up again after an await: unless it is open, it may have been packed or dropped.

    `location` is where its record lies; None when its last name is gone, and then `orphan` is the
    last record, and `file` is held, which has what of it was not stored. `opens` counts the handles
    of its file; `set_id` says whether the mode of that has set-ID bits. `touched` is the layer in
    which it was last staged as a directory whose names changed. `record` is that of a directory,
    and `names` how many names it has (negative: not counted), while the tree's stamp is `known_at`.
    `lookups` is what the kernel will give back.
    """

    __slots__ = (
        "_removed_ns",
        "file",
        "ino",
        "known_at",
        "location",
        "lookups",
        "names",
        "opens",
        "orphan",
        "record",
        "set_id",
        "touched",
    )

    def __init__(self, ino: int, location: Location) -> None:
        self.ino = ino
        self.location = location
        self.lookups = 0
        self.opens = 0
        self.set_id = False
        self.orphan: Entry | None = None
        self.file: OpenFile | None = None
        self._removed_ns = 0
        self.touched = 0
        self.record: Entry | None = None
        self.names = -1
        self.known_at = -1

    def remove(self, entry: Entry, file: OpenFile | None, now: int) -> None:
        """The last name of the file, whose record was *entry*, has gone at *now*. What is changed
        in the record by that is made when somebody asks, which mostly nobody does."""
        self.location = None
        self.orphan = entry
        if file is not None and self.file is None:
            self.file = file.acquire()
        self._removed_ns = now

    def last(self) -> Entry | None:
        """The last record of a file without names."""
        if self._removed_ns and self.orphan is not None:
            self.orphan = self.orphan._replace(nlink=0, ctime_ns=self._removed_ns)
            self._removed_ns = 0
        return self.orphan

    def known(self, stamp: int) -> Inode:
        """Keep of the directory only what is known of it at this stamp of the tree; returns it."""
        if self.known_at != stamp:
            self.known_at, self.record, self.names = stamp, None, -1
        return self

    @property
    def at_rest(self) -> bool:
        """Whether a packed form says all of it."""
        return self.location is not None and not self.opens and self.lookups <= MAX_COUNT

    @property
    def unused(self) -> bool:
        """Whether nobody can ask for it by its number any more."""
        return not self.lookups and not self.opens


class InodeTable:
    """All known inodes by number. No method waits."""

    def __init__(self, *, hot: int = HOT_INODES) -> None:
        # Those that are not packed; `find` knows the others too.
        self.hot: dict[int, Inode] = {}
        self._cold = PackedInodes()
        self._least_limit = self._limit = hot
        # The access times that were set, in nanoseconds; lost with the inode, never stored.
        self.access_times: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.hot) + len(self._cold)

    def __contains__(self, ino: int) -> bool:
        return ino in self.hot or ino in self._cold

    def __iter__(self) -> Iterator[int]:
        """The known numbers, as they are now."""
        return iter([*self.hot, *self._cold])

    def find(self, ino: int) -> Inode | None:
        """The inode of a number that may be unknown."""
        inode = self.hot.get(ino)
        if inode is not None:
            return inode
        packed = self._cold.pop(ino)
        if packed is None:
            return None
        lookups, location = packed
        inode = Inode(ino, location)
        inode.lookups = lookups
        self._keep(inode)
        return inode

    def add(self, ino: int, location: Location) -> Inode:
        """The inode of a new file, counted as looked up once."""
        inode = Inode(ino, location)
        inode.lookups = 1
        self._keep(inode)
        return inode

    def known(self, ino: int, location: Location) -> Inode:
        """The inode of a file whose record lies at *location*; made if it was unknown.

        Counts nothing: an inode that stays unused is dropped when the table is next tidied.
        """
        inode = self.find(ino)
        if inode is None:
            inode = Inode(ino, location)
            self._keep(inode)
        else:
            inode.location = location
            inode.orphan = None
        return inode

    def peek(self, ino: int) -> Location:
        """Where the record of a known number lies, without unpacking it; None if nowhere."""
        inode = self.hot.get(ino)
        if inode is not None:
            return inode.location
        packed = self._cold.get(ino)
        return None if packed is None else packed[1]

    def forget(self, ino: int, count: int) -> None:
        """Take back *count* lookups, and drop an inode that is unused then.

        More than were counted means a bug somewhere; it is taken as all of them.
        """
        inode = self.hot.get(ino) or self.find(ino)
        if inode is None:
            return
        if inode.lookups > count:
            inode.lookups -= count
            return
        inode.lookups = 0
        if not inode.opens:
            self.drop_unused(inode)

    def drop_unused(self, inode: Inode) -> None:
        """Drop *inode* if nobody can ask for it any more."""
        if not (inode.lookups or inode.opens):
            self.hot.pop(inode.ino, None)
            self.access_times.pop(inode.ino, None)
            file, inode.file = inode.file, None
            if file is not None:
                file.release()

    def set_access_time(self, ino: int, time_ns: int) -> None:
        """Remember an access time; of too many the oldest are given up."""
        times = self.access_times
        times.pop(ino, None)
        times[ino] = time_ns
        if len(times) > ACCESS_TIMES:
            del times[next(iter(times))]

    # -- packing -----------------------------------------------------------------------------------

    def _keep(self, inode: Inode) -> None:
        self.hot[inode.ino] = inode
        if len(self.hot) > self._limit:
            self._tidy(keep=inode)

    def _tidy(self, keep: Inode) -> None:
        """Pack the older half of the inodes at rest, and drop what is unused."""
        candidates = [i for i in self.hot.values() if i is not keep and (i.at_rest or i.unused)]
        unpackable = len(self.hot) - len(candidates)
        for inode in candidates[: (len(candidates) + 1) // 2]:
            if inode.unused:
                self.drop_unused(inode)
            else:
                assert inode.location is not None
                del self.hot[inode.ino]
                self._cold.put(inode.ino, inode.lookups, inode.location)
        # What is open or has no name cannot be packed: the limit follows it, or each new inode
        # would look at all of them again.
        self._limit = max(self._least_limit, 2 * unpackable)
