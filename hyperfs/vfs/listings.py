"""What was listed of directories, kept while nothing changes: it mostly is asked for again."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

S = TypeVar("S")
# One entry of a listing: name, attributes, position after it (where to go on), id of its file.
Listed = tuple[bytes, S, int, int]

# The position of the first name: those before it are `.` and `..`.
START: Final = 2
# How many entries are kept of all directories together: some 100 bytes each, beside attributes
# that are mostly kept anyway, for look-ups. A listing, which may be empty, counts as one more.
KEPT_ENTRIES: Final = 32_768
_STALE: Final = -1


class Listing(Generic[S]):
    """Entries of a directory that follow one another from the position *first* on, all as they were
    at one stamp of the tree, when *opened* files had been opened.

    Of each the name, the attributes and the id of the file, in columns: the garbage collector would
    have to look at a tuple for each. `whole` says that no names follow them. Up to the position
    `placed` the places of the files were told to the inodes. `kept` is whether others find it, too.
    """

    __slots__ = ("first", "ids", "kept", "names", "opened", "placed", "shown", "stamp", "whole")

    def __init__(self, first: int, stamp: int, opened: int) -> None:
        self.first = self.placed = first
        self.stamp = stamp
        self.opened = opened
        self.names: list[bytes] = []
        self.shown: list[S] = []
        self.ids: list[int] = []
        self.whole = self.kept = False

    def entries(self, start: int, end: int) -> list[Listed[S]]:
        """Those from the position *start* on, up to *end* if there are so many."""
        low, high = start - self.first, end - self.first
        columns = self.names[low:high], self.shown[low:high]
        return list(zip(*columns, range(start + 1, end + 1), self.ids[low:high], strict=False))

    def drop_before(self, position: int) -> None:
        """Forget the entries before a position, to which nobody will go back."""
        count = position - self.first
        for column in (self.names, self.shown, self.ids):
            del column[:count]
        self.first = position

    @property
    def end(self) -> int:
        """The position after the last entry."""
        return self.first + len(self.ids)

    def holds(self, position: int, after: bytes) -> bool:
        """Whether it goes on at a position that was told with the name *after*."""
        index = position - self.first
        if index <= 0:
            return not index
        return index <= len(self.names) and self.names[index - 1] == after

    def spend(self) -> None:
        """Let it be used no more: what it shows may change without the tree's stamp."""
        self.stamp = _STALE


class Listings(Generic[S]):
    """Listings from the start, by directory; of too many entries the oldest are given up."""

    def __init__(self) -> None:
        self._kept: dict[int, Listing[S]] = {}
        self._total = 0

    def get(self, directory: int) -> Listing[S] | None:
        """The one of a directory, which may be out of date."""
        return self._kept.get(directory)

    def keep(self, directory: int, listing: Listing[S]) -> None:
        """From now on this is the one of the directory."""
        self._drop(directory)
        self._kept[directory] = listing
        listing.kept = True
        self.grown(1)

    def grown(self, count: int) -> None:
        """Note that a listing which is kept has so many more entries."""
        self._total += count
        while self._total > KEPT_ENTRIES:
            self._drop(next(iter(self._kept)))

    def _drop(self, directory: int) -> None:
        dropped = self._kept.pop(directory, None)
        if dropped is not None:
            self._total -= len(dropped.ids) + 1
            dropped.kept = False
