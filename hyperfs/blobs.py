"""Hyperblobs, read: a file's bytes as consecutive blocks of a content core, of unknown sizes.

A blob knows how many blocks it has and where its bytes begin in the core, not where each block
begins. Writers cut at 64 KiB, except for streams, of which every piece became a block: so where a
byte lies is guessed, and then made sure of from the sizes in the core's tree.

A *mapped* blob is a list of blocks and their sizes, stored where another one's bytes are.

Format: hyperblobs 2; hyperfs/FORMAT.md, "Hyperdrives of the Node stack".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from corestore import DecodeError, Reader
from hyperfs.extents import MAX_BLOCK_BYTES, Extent, Hole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK_BYTES: Final = 64 * 1024
MAX_MAP_BLOCKS: Final = 64
MAX_MAP_ENTRIES: Final = 8192


class Blob(NamedTuple):
    """*byte_length* bytes from byte *byte_offset* of the core, in *blocks* blocks from *block* on.

    *mapped*: those bytes are a map (`decode_map`) of the blocks that the content lies in.
    """

    block: int
    blocks: int
    byte_offset: int
    byte_length: int
    mapped: bool = False

    @property
    def regular(self) -> bool:
        """Whether it has as many blocks as one that was cut at 64 KiB."""
        return self.blocks == -(-self.byte_length // BLOCK_BYTES)

    def likely_blocks(self, start: int, end: int) -> range:
        """The blocks that its bytes *start* to *end* probably lie in; sure if it was cut at
        64 KiB."""
        size = BLOCK_BYTES if self.regular else max(1, self.byte_length // max(1, self.blocks))
        last = self.block + self.blocks
        first = min(self.block + start // size, last)
        return range(first, min(self.block + (end - 1) // size + 1, last))


class Span(NamedTuple):
    """*length* bytes of a file from *offset* on are those of *blob* from *offset* on."""

    offset: int
    length: int
    blob: Blob

    @property
    def end(self) -> int:
        """The file offset after the last byte."""
        return self.offset + self.length


# A part of a file, and where its bytes are.
Piece = Extent | Hole | Span


def decode_map(blocks: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """(block, size) of each part of a mapped blob, from the bytes of its blocks, in order.

    Raises:
      DecodeError: it is no map.
    """
    for data in blocks:
        reader = Reader(data)
        if reader.uint() != 0:
            raise DecodeError("map of a blob of version 0")
        count = reader.uint()
        if count > MAX_MAP_ENTRIES:
            raise DecodeError("map of a blob within bounds")
        for _ in range(count):
            block, size = reader.uint(), reader.uint()
            if size > MAX_BLOCK_BYTES:
                raise DecodeError("size of a block")
            yield block, size


def map_extents(parts: Iterable[tuple[int, int]]) -> tuple[Extent, ...]:
    """The extents of a file whose mapped blob has these parts."""
    out: list[Extent] = []
    offset = 0
    for block, size in parts:
        if size:
            out.append(Extent(offset, block, 0, size))
        offset += size
    return tuple(out)
