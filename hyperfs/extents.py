"""Which bytes of a file are which bytes of which content block: pure functions on extents.

A file's content is a list of extents, sorted by offset, none overlapping another. What no extent
covers is a hole and reads as zeros. Every function takes such a list and returns a new one as a
tuple; none changes its argument, and each costs one pass over the extents.

A file of more than `MAX_ENTRY_EXTENTS` is *grouped*: its extents lie in windows of `WINDOW_BYTES`
of file offset, one record a window, so that a change rewrites only the windows it touches. There an
extent never crosses the border of a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from corestore import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A changed page writes the record of its window anew: with 1 MiB that would be four times as long,
# and take twice the time; with 64 KiB a large file would have a record for each chunk.
WINDOW_BYTES: Final = 256 * 1024
# The most extents an entry carries itself: 32 of a sequentially written file take some 250 bytes.
MAX_ENTRY_EXTENTS: Final = 32
# The most one window may hold. Page-aligned random writes make at most 128; a writer that
# meets more rewrites the window's bytes as a few extents instead.
MAX_WINDOW_EXTENTS: Final = 1024
MAX_FILE_BYTES: Final = (1 << 63) - 1
# A block must fit one frame of the wire, whose length has 24 bits.
MAX_BLOCK_BYTES: Final = (1 << 24) - 1
MAX_BLOCK_INDEX: Final = (1 << 53) - 1


class Extent(NamedTuple):
    """*length* bytes of the file from *offset* on are those of *block* from *block_offset* on."""

    offset: int
    block: int
    block_offset: int
    length: int

    @property
    def end(self) -> int:
        """The file offset after the last byte."""
        return self.offset + self.length

    def part(self, start: int, end: int) -> Extent:
        """The same bytes cut to the file offsets *start* to *end*, which must lie inside."""
        return Extent(start, self.block, self.block_offset + start - self.offset, end - start)


class Hole(NamedTuple):
    """*length* zeros of the file from *offset* on, stored nowhere."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The file offset after the last zero."""
        return self.offset + self.length


def coalesce(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Join neighbours that follow one another both in the file and in one block."""
    out: list[Extent] = []
    for extent in extents:
        if out:
            last = out[-1]
            if (
                last.block == extent.block
                and last.offset + last.length == extent.offset
                and last.block_offset + last.length == extent.block_offset
            ):
                out[-1] = Extent(
                    last.offset, last.block, last.block_offset, last.length + extent.length
                )
                continue
        out.append(extent)
    return tuple(out)


def punch(extents: Iterable[Extent], start: int, end: int) -> tuple[Extent, ...]:
    """Make a hole of the file offsets *start* to *end*."""
    if start >= end:
        return tuple(extents)
    out: list[Extent] = []
    for extent in extents:
        extent_end = extent.offset + extent.length
        if extent_end <= start or extent.offset >= end:
            out.append(extent)
            continue
        if extent.offset < start:
            out.append(extent.part(extent.offset, start))
        if extent_end > end:
            out.append(extent.part(end, extent_end))
    return tuple(out)


def truncate(extents: Iterable[Extent], size: int) -> tuple[Extent, ...]:
    """Drop what lies at *size* or after it."""
    return punch(extents, size, MAX_FILE_BYTES + 1)


def overlay(old: Sequence[Extent], new: Sequence[Extent]) -> tuple[Extent, ...]:
    """Lay *new* over *old*: where both cover a byte, the new extent has it.

    Both are sorted and free of overlaps, and so is the result, with neighbours coalesced.
    """
    if not old or not new:
        return coalesce(old or new)
    out: list[Extent] = []
    at = 0
    rest: Extent | None = None  # of old[at], what follows the new extents laid so far
    for extent in new:
        start, end = extent.offset, extent.offset + extent.length
        while True:
            current = rest if rest is not None else (old[at] if at < len(old) else None)
            if current is None or current.offset >= end:
                break
            current_end = current.offset + current.length
            if current.offset < start:
                out.append(current.part(current.offset, min(start, current_end)))
            if current_end > end:
                rest = current.part(end, current_end)
                break
            rest = None
            at += 1
        out.append(extent)
    if rest is not None:
        out.append(rest)
        at += 1
    out.extend(old[at:])
    return coalesce(out)


def pieces(extents: Iterable[Extent], start: int, end: int) -> list[Extent | Hole]:
    """The file offsets *start* to *end*, without a gap: parts of extents, and holes."""
    out: list[Extent | Hole] = []
    at = start
    for extent in extents:
        extent_end = extent.offset + extent.length
        if extent_end <= at:
            continue
        if extent.offset >= end:
            break
        if extent.offset > at:
            out.append(Hole(at, extent.offset - at))
            at = extent.offset
        cut = min(extent_end, end)
        out.append(extent.part(at, cut))
        at = cut
    if at < end:
        out.append(Hole(at, end - at))
    return out


def windows(start: int, end: int) -> range:
    """The numbers of the windows that the file offsets *start* to *end* touch."""
    if start >= end:
        return range(0)
    return range(start // WINDOW_BYTES, (end - 1) // WINDOW_BYTES + 1)


def split_windows(extents: Iterable[Extent]) -> dict[int, tuple[Extent, ...]]:
    """The extents of each window that has any, those that cross a border cut there."""
    out: dict[int, list[Extent]] = {}
    for extent in extents:
        extent_end = extent.offset + extent.length
        at = extent.offset
        while at < extent_end:
            window = at // WINDOW_BYTES
            cut = min(extent_end, (window + 1) * WINDOW_BYTES)
            out.setdefault(window, []).append(extent.part(at, cut))
            at = cut
    return {window: tuple(parts) for window, parts in out.items()}


def to_numbers(extents: Iterable[Extent]) -> list[int]:
    """The stored form: four integers an extent, relative to the extent before it.

    For each: the gap in the file since the end of the extent before; the block minus the block that
    follows the one before; the offset in the block; the length. The first is relative to offset
    0 and block 0. A sequentially written file has zeros in the first three places.

    Format: hyperfs/FORMAT.md, "Extents".
    """
    out: list[int] = []
    offset = block = 0
    for extent in extents:
        out += (extent.offset - offset, extent.block - block, extent.block_offset, extent.length)
        offset = extent.offset + extent.length
        block = extent.block + 1
    return out


def from_numbers_untrusted(numbers: object, *, limit: int) -> tuple[Extent, ...]:
    """Read the form of `to_numbers`: at most *limit* extents, sorted, all within the bounds.

    Raises:
      DecodeError: it is no such list, or an extent is empty, out of order or out of bounds.
    """
    if type(numbers) is not list or len(numbers) % 4 or len(numbers) > 4 * limit:
        raise DecodeError("list of extents")
    for number in numbers:
        if type(number) is not int:
            raise DecodeError("extent")
    out: list[Extent] = []
    offset = block = 0
    fields = iter(numbers)
    for gap, step, block_offset, length in zip(fields, fields, fields, fields, strict=True):
        offset += gap
        block += step
        if (
            gap < 0
            or block_offset < 0
            or length <= 0
            or block_offset + length > MAX_BLOCK_BYTES
            or not 0 <= block <= MAX_BLOCK_INDEX
            or offset + length > MAX_FILE_BYTES
        ):
            raise DecodeError("extent within bounds")
        out.append(Extent(offset, block, block_offset, length))
        offset += length
        block += 1
    return tuple(out)
