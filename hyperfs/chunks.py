"""Where to cut content into blocks, and which chunks a drive has already.

Cuts are *content-defined*: they depend on the bytes around them and not on where these lie, so
equal content makes equal chunks although something was inserted in front of it. A chunk has at
least 16 KiB (but for the end of what is cut), at most 256 KiB, and 64 KiB on average. Nobody who
reads a drive depends on the cuts; they could change with any version of this program.

A chunk is recognised by 8 bytes of a keyed hash of its plaintext. Such a fingerprint is only a
hint: the caller compares the bytes before it relies on them. The key keeps others from making
chunks that collide, and from telling by a table what a drive holds.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Final, Protocol

from pyfastcdc import FastCDC

LEAST_BYTES: Final = 16 * 1024
AVERAGE_BYTES: Final = 64 * 1024
MOST_BYTES: Final = 256 * 1024
FINGERPRINT_BYTES: Final = 8
# 2**18 chunks are 16 GiB of content; the table takes 24 bytes for each, 6 MiB.
TABLE_CHUNKS: Final = 1 << 18
# Chunks with equal low bits of the fingerprint share this many places.
_WAYS: Final = 4

# The chunker counts what lies beyond the least size: 48 + 16 KiB. Normalisation 2 narrows the
# spread of sizes: fewer chunks end at the least or the most.
_cutter: Final = FastCDC(
    AVERAGE_BYTES - LEAST_BYTES,
    min_size=LEAST_BYTES,
    max_size=MOST_BYTES,
    normalized_chunking=2,
)


def split(data: bytes | memoryview) -> list[memoryview]:
    """Cut *data* into chunks, which are views of it; none for no data.

    All cuts but the end of the last chunk are final: with more data behind it they would be the
    same. To cut a stream, keep the last chunk and put the next data behind it.
    """
    view = memoryview(data)
    if len(view) <= LEAST_BYTES:
        return [view] if len(view) else []
    return [view[cut.offset : cut.offset + cut.length] for cut in _cutter.cut_buf(view)]


class ChunkTable(Protocol):
    """Which chunks the content core has, by fingerprint. Losing it loses only deduplication."""

    def fingerprint(self, data: bytes | memoryview) -> bytes:
        """What *data* is found by."""
        ...

    def find(self, fingerprint: bytes) -> tuple[int, int, int] | None:
        """Block, offset in it and length of a chunk that is likely to be the one; or None."""
        ...

    def add(self, fingerprint: bytes, block: int, offset: int, length: int) -> None:
        """Remember where a chunk is."""
        ...


class MemoryChunkTable:
    """A `ChunkTable` in memory, of a fixed size: a new chunk takes the place of another.

    *key*, up to 64 bytes, should be a secret of the drive. *chunks* is how many it holds.
    """

    __slots__ = ("_blocks", "_count", "_fingerprints", "_key", "_lengths", "_offsets")

    def __init__(self, key: bytes, chunks: int = TABLE_CHUNKS) -> None:
        self._key = key
        self._count = max(1, chunks // _WAYS)
        places = self._count * _WAYS
        self._fingerprints = array("Q", bytes(8 * places))
        self._blocks = array("Q", bytes(8 * places))
        self._offsets = array("I", bytes(4 * places))
        # A length of 0 marks a place that is free.
        self._lengths = array("I", bytes(4 * places))

    def fingerprint(self, data: bytes | memoryview) -> bytes:
        """8 bytes of keyed BLAKE2b: 60 us for 64 KiB."""
        return hashlib.blake2b(data, digest_size=FINGERPRINT_BYTES, key=self._key).digest()

    def find(self, fingerprint: bytes) -> tuple[int, int, int] | None:
        """See `ChunkTable`."""
        place = self._place(int.from_bytes(fingerprint, "little"))
        if place is None or not self._lengths[place]:
            return None
        return self._blocks[place], self._offsets[place], self._lengths[place]

    def add(self, fingerprint: bytes, block: int, offset: int, length: int) -> None:
        """See `ChunkTable`. The newest place of a chunk is kept."""
        number = int.from_bytes(fingerprint, "little")
        place = self._place(number)
        if place is None:
            place = number % self._count * _WAYS + number // self._count % _WAYS
        self._fingerprints[place] = number
        self._blocks[place] = block
        self._offsets[place] = offset
        self._lengths[place] = length

    def _place(self, number: int) -> int | None:
        """Where the fingerprint is, else a free place for it; None when all are taken."""
        first = number % self._count * _WAYS
        free = None
        for place in range(first, first + _WAYS):
            if not self._lengths[place]:
                free = place if free is None else free
            elif self._fingerprints[place] == number:
                return place
        return free
