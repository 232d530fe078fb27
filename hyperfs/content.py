"""Where a file's bytes are: inline, a few extents, or extents grouped in windows; as one value.

A `ContentMap` never changes. Laying new extents over it, or cutting it, makes another one that
shares what stayed the same. For a grouped file it holds only the windows that changed since they
were recorded; the others are looked up in the `View` they are recorded in.

Nothing here waits: windows that are not local raise `BlocksMissing`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from hyperfs import extents as ex
from hyperfs.blobs import Span
from hyperfs.extents import MAX_ENTRY_EXTENTS, WINDOW_BYTES
from hyperfs.records import group_key, pack_group

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hyperfs.blobs import Blob, Piece
    from hyperfs.extents import Extent
    from hyperfs.records import Entry
    from hyperfs.view import TreeView

_ALL: Final = 1 << 62
_NO_WINDOWS: Final[Mapping[int, tuple[Extent, ...]]] = MappingProxyType({})
# How many group records are looked for at a time when a file shrinks.
_GONE_PAGE: Final = 256


class ContentMap(NamedTuple):
    """The content of one file, *size* bytes; what nothing covers is a hole.

    At most one of `inline`, `extents`, `grouped` and `blob` says something. `windows` are those
    that differ from the ones recorded in `view`, of which only numbers below `kept` count. `stale`
    says that there may be records of windows that do not count, to be removed with the next record.

    A tuple for the reason that `Entry` is one: each file that is opened or committed makes some.
    """

    id: int
    size: int = 0
    inline: bytes | None = None
    extents: tuple[Extent, ...] = ()
    grouped: bool = False
    windows: Mapping[int, tuple[Extent, ...]] = _NO_WINDOWS
    view: TreeView | None = None
    kept: int = _ALL
    stale: bool = False
    blob: Blob | None = None

    @classmethod
    def of_entry(cls, entry: Entry, view: TreeView) -> ContentMap:
        """The content that *entry*, as recorded in *view*, has."""
        if entry.grouped or entry.blob is not None:
            recorded = view if entry.grouped else None
            return cls(entry.id, entry.size, grouped=entry.grouped, view=recorded, blob=entry.blob)
        return cls(entry.id, entry.size, entry.inline, entry.extents)

    # -- looking -----------------------------------------------------------------------------

    def window(self, number: int) -> tuple[Extent, ...]:
        """The extents of one window of a grouped file.

        Raises:
          BlocksMissing, DecodeError: of its record.
        """
        changed = self.windows.get(number)
        if changed is not None:
            return changed
        if self.view is None or number >= self.kept:
            return ()
        return self.view.group(self.id, number)

    def pieces(self, start: int, end: int) -> Sequence[Piece]:
        """The file offsets *start* to *end* (not beyond the size), without a gap. Not for inline.

        Raises:
          BlocksMissing: all the windows' records that are not local, as far as can be told.
          DecodeError: of a window's record.
        """
        if self.blob is not None:
            return [Span(start, end - start, self.blob)]
        if not self.grouped:
            return ex.pieces(self.extents, start, end)
        numbers = ex.windows(start, end)
        if len(numbers) == 1:
            return ex.pieces(self.window(numbers[0]), start, end)
        out: list[Piece] = []
        for number in numbers:
            low, high = number * WINDOW_BYTES, (number + 1) * WINDOW_BYTES
            out += ex.pieces(self.window(number), max(start, low), min(end, high))
        return out

    def boundary_before(self, offset: int) -> int:
        """Where the extent that *offset* lies in, or that ends there, begins; *offset* itself
        where there is none. In a grouped file not beyond its window.

        Raises:
          BlocksMissing, DecodeError: of a window's record.
        """
        if offset <= 0:
            return offset
        extents = self.window((offset - 1) // WINDOW_BYTES) if self.grouped else self.extents
        for extent in extents:
            if extent.offset < offset <= extent.end:
                return extent.offset
        return offset

    def used_before(self, cut: int) -> int:
        """How many bytes before *cut* are no hole; of grouped extents, which it would take long to
        look up, none is counted as one."""
        if self.grouped or self.inline is not None or self.blob is not None:
            return min(self.size, cut)
        used = 0
        for extent in self.extents:
            if extent.offset < cut:
                used += min(extent.length, cut - extent.offset)
        return used

    # -- changing ----------------------------------------------------------------------------

    def write(self, cut: int, new: Sequence[Extent], size: int) -> ContentMap:
        """Drop everything at *cut* and after it, lay *new* over the rest, make the size *size*.

        Raises:
          BlocksMissing, DecodeError: of the record of a window that changes in part.
        """
        if not self.grouped or cut <= 0:
            changed = ex.overlay(
                ex.truncate(self.extents, cut) if cut < self.size else self.extents, new
            )
            stale = self.stale or self.view is not None
            if len(changed) <= MAX_ENTRY_EXTENTS:
                return ContentMap(self.id, size, None, changed, stale=stale)
            windows = ex.split_windows(changed)
            return ContentMap(self.id, size, grouped=True, windows=windows, stale=stale)
        windows = dict(self.windows)
        kept_windows = self.kept
        if cut < self.size:
            number, rest = divmod(cut, WINDOW_BYTES)
            if rest:
                windows[number] = ex.truncate(self.window(number), cut)
                number += 1
            windows = {n: extents for n, extents in windows.items() if n < number}
            kept_windows = min(kept_windows, number)
        stale = self.stale or kept_windows < self.kept
        base = self._replace(windows=windows, kept=kept_windows, stale=stale)
        for number, extents in ex.split_windows(new).items():
            windows[number] = ex.overlay(base.window(number), extents)
        return base._replace(size=size)

    def with_inline(self, data: bytes) -> ContentMap:
        """*data* as the whole content, to be kept in the record itself."""
        return self._replace(size=len(data), inline=data, extents=(), grouped=False)

    # -- recording ---------------------------------------------------------------------------

    def group_changes(self, newest: TreeView | None) -> Iterator[tuple[bytes, bytes | None]]:
        """The group records to write (or, None, to remove) for this content to be recorded on top
        of the version *newest*.

        Raises:
          BlocksMissing, DecodeError: of the index nodes where records have to go.
        """
        if self.stale and newest is not None:
            first = 0 if self.view is None else self.kept
            while True:
                gone = newest.group_windows(self.id, first, _GONE_PAGE)
                for number in gone:
                    if number not in self.windows:
                        yield group_key(self.id, number), None
                if len(gone) < _GONE_PAGE:
                    break
                first = gone[-1] + 1
        for number, extents in self.windows.items():
            yield group_key(self.id, number), pack_group(extents) if extents else None

    def recorded(self, view: TreeView) -> ContentMap:
        """The same content, once *view* has its records."""
        if not self.grouped:
            return self._replace(stale=False) if self.stale else self
        return self._replace(windows=_NO_WINDOWS, view=view, kept=_ALL, stale=False)
