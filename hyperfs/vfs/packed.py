"""Inodes at rest, packed: a lookup count and the place of a record for each of a million numbers.

Files made one after the other have numbers that follow one another, and are mostly looked at
together. So the packed forms of 32 neighbouring numbers lie in one byte string, a *page*, in no
order: some 30 bytes each, where a dictionary with an entry for each would take 130. Finding one is
a walk over its page, 1 to 2 µs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from hyperfs.writer import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperfs.writer import Shared

_PAGE_BITS: Final = 5
_LOW: Final = (1 << _PAGE_BITS) - 1
# The number's low bits, how long the name is, lookup count, directory id (0: SHARED); the name.
_FIXED: Final = struct.Struct("<BBIQ")
_FIXED_BYTES: Final = _FIXED.size
MAX_COUNT: Final = (1 << 32) - 1


class PackedInodes:
    """What is known of inodes at rest, by number."""

    __slots__ = ("_count", "_pages")

    def __init__(self) -> None:
        self._pages: dict[int, bytes] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, ino: int) -> bool:
        page = self._pages.get(ino >> _PAGE_BITS)
        return page is not None and _find(page, ino & _LOW) >= 0

    def __iter__(self) -> Iterator[int]:
        """The numbers, as they are now."""
        for number, page in list(self._pages.items()):
            at = 0
            while at < len(page):
                yield number << _PAGE_BITS | page[at]
                at += _FIXED_BYTES + page[at + 1]

    def put(self, ino: int, lookups: int, location: tuple[int, bytes] | Shared) -> None:
        """Add an inode whose number is not here; at most `MAX_COUNT` lookups."""
        directory, name = (0, b"") if location is SHARED else location
        number = ino >> _PAGE_BITS
        packed = _FIXED.pack(ino & _LOW, len(name), lookups, directory) + name
        self._pages[number] = self._pages.get(number, b"") + packed
        self._count += 1

    def get(self, ino: int) -> tuple[int, tuple[int, bytes] | Shared] | None:
        """Lookup count and location of a number that may not be here."""
        page = self._pages.get(ino >> _PAGE_BITS)
        at = -1 if page is None else _find(page, ino & _LOW)
        return None if page is None or at < 0 else _unpack(page, at)

    def pop(self, ino: int) -> tuple[int, tuple[int, bytes] | Shared] | None:
        """The same, and remove it."""
        number = ino >> _PAGE_BITS
        page = self._pages.get(number)
        at = -1 if page is None else _find(page, ino & _LOW)
        if page is None or at < 0:
            return None
        rest = page[:at] + page[at + _FIXED_BYTES + page[at + 1] :]
        if rest:
            self._pages[number] = rest
        else:
            del self._pages[number]
        self._count -= 1
        return _unpack(page, at)


def _find(page: bytes, low: int) -> int:
    """Where in the page the number with these low bits is; negative: nowhere."""
    at, end = 0, len(page)
    while at < end:
        if page[at] == low:
            return at
        at += _FIXED_BYTES + page[at + 1]
    return -1


def _unpack(page: bytes, at: int) -> tuple[int, tuple[int, bytes] | Shared]:
    _, length, lookups, directory = _FIXED.unpack_from(page, at)
    start = at + _FIXED_BYTES
    return lookups, (directory, page[start : start + length]) if directory else SHARED
