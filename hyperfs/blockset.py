"""Sets of block indices, as bitmaps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bits of a page of a `BlockSet`.
_PAGE: Final = 1024


class BlockSet:
    """A set of block indices as bitmaps of pages: a record may name any block, however far off, and
    costs 250 bytes at most."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def __contains__(self, index: int) -> bool:
        page = self._pages.get(index // _PAGE)
        return page is not None and bool(page[index % _PAGE >> 3] >> (index & 7) & 1)

    def add(self, index: int) -> None:
        """Put *index* in."""
        page = self._pages.get(index // _PAGE)
        if page is None:
            page = self._pages[index // _PAGE] = bytearray(_PAGE // 8)
        page[index % _PAGE >> 3] |= 1 << (index & 7)

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges of *start* to *end* that are not in the set, half open, in order."""
        at, since = start, -1
        while at < end:
            page = self._pages.get(at // _PAGE)
            byte = 0 if page is None else page[at % _PAGE >> 3]
            if page is None:
                step, held = _PAGE - at % _PAGE, False
            elif not at & 7 and at + 8 <= end and byte in (0, 255):
                step, held = 8, byte == 255
            else:
                step, held = 1, bool(byte >> (at & 7) & 1)
            if held and since >= 0:
                yield since, at
                since = -1
            elif not held and since < 0:
                since = at
            at += step
        if since >= 0:
            yield since, end
