"""Pages of held bits: 4096 blocks in 512 bytes, least significant bit first.

Block `index` is bit `index & 7` of byte `(index >> 3) & 511` of page `index >> 12`. Pages are
immutable bytes, so that a page staged in a commit and one shown to readers can be the same object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.bitfield import PAGE_BLOCKS, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

EMPTY_PAGE: Final = bytes(PAGE_BYTES)
FULL_PAGE: Final = b"\xff" * PAGE_BYTES


def is_set(page: bytes, index: int) -> bool:
    """Whether the bit of block *index* is set in the page that holds it."""
    return bool(page[(index >> 3) & (PAGE_BYTES - 1)] >> (index & 7) & 1)


def parts(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """`(page number, first bit, end bit)` of every page that blocks `start..end` touch."""
    while start < end:
        number = start // PAGE_BLOCKS
        base = number * PAGE_BLOCKS
        stop = min(end, base + PAGE_BLOCKS)
        yield number, start - base, stop - base
        start = stop


def with_bits(page: bytes, first: int, end: int, held: bool) -> bytes:
    """A copy of *page* whose bits `first..end` (within the page) are *held*."""
    if end - first == PAGE_BLOCKS:
        return FULL_PAGE if held else EMPTY_PAGE
    low, high = first >> 3, (end + 7) >> 3  # the bytes they are in
    mask = ((1 << (end - first)) - 1) << (first & 7)
    value = int.from_bytes(page[low:high], "little")
    value = value | mask if held else value & ~mask
    return page[:low] + value.to_bytes(high - low, "little") + page[high:]


def all_set(page: bytes, first: int, end: int) -> bool:
    """Whether bits `first..end` (within the page) are all set."""
    mask = ((1 << (end - first)) - 1) << first
    return int.from_bytes(page, "little") & mask == mask


def last_set(page: bytes, end: int) -> int | None:
    """The highest set bit below *end*, or None."""
    value = int.from_bytes(page, "little") & ((1 << end) - 1)
    return value.bit_length() - 1 if value else None


def first_set(page: bytes, start: int) -> int | None:
    """The lowest set bit from *start* on, or None."""
    value = int.from_bytes(page, "little") >> start << start
    return (value & -value).bit_length() - 1 if value else None


def set_bits(page: bytes) -> Iterator[int]:
    """The numbers of the set bits, ascending."""
    value = int.from_bytes(page, "little")
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low
