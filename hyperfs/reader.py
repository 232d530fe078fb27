"""A byte range of a file: which blocks it takes, which are local, and what to fetch ahead.

A random read fetches the blocks it needs and nothing else. While reads follow one another, what
will probably be read next is asked for too, twice as far each time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from corestore import DecodeError
from hyperfs.blobreader import BlobReader
from hyperfs.blobs import Span
from hyperfs.extents import Extent
from hyperfs.index.node import BlocksMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hyperfs.blobs import Blob, Piece
    from hyperfs.blocks import CoreBlocks

# The kernel asks for 128 KiB at a time, so the first step is the next request.
READ_AHEAD_FIRST: Final = 128 * 1024
# Twice what is under way at 100 MB/s and 80 ms: the other half has come, and is being read.
READ_AHEAD_MOST: Final = 16 * 1024 * 1024
# Blocks are 64 KiB on average and reads 128 KiB: the one cut by a border is not read twice. Enough
# for a few files read at the same time.
CACHED_BLOCK_BYTES: Final = 2 * 1024 * 1024


class ReadAhead:
    """Notices sequential reads of one open file, and says how far to fetch ahead."""

    __slots__ = ("_asked", "_next", "_window")

    def __init__(self) -> None:
        self._next = -1
        self._window = 0
        self._asked = 0

    def advance(self, offset: int, length: int) -> tuple[int, int] | None:
        """Note a read; returns the range of file offsets to ask for now, if any.

        The kernel sends several requests of one sequential reader at once, so a read that lies
        within the window counts as following the last one.
        """
        end = offset + length
        if offset == self._next:
            self._window = min(max(2 * self._window, READ_AHEAD_FIRST), READ_AHEAD_MOST)
        elif not self._window or abs(offset - self._next) > self._window:
            self._window = 0
            self._asked = 0
            self._next = end
            return None
        self._next = max(self._next, end)
        start, stop = max(self._next, self._asked), self._next + self._window
        # Few large requests rather than one more block each time.
        if stop - start < self._window // 8:
            return None
        self._asked = stop
        return start, stop

    def withdraw(self, start: int) -> None:
        """What `advance` returned, from *start* on, was not asked for: it is returned again."""
        self._asked = start


class ContentReader:
    """Reads extents, or spans of blobs, of one content core."""

    def __init__(self, blocks: CoreBlocks) -> None:
        self.blocks = blocks
        self._blobs = BlobReader(blocks)
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0
        # Told of blocks that are read, but for those read again soon.
        self.on_read: Callable[[int], None] | None = None

    async def read(self, pieces: Sequence[Piece]) -> bytes:
        """The bytes of *pieces*, one after the other. All missing blocks are asked for at once.

        Does not suspend when everything is local.

        Raises:
          DecodeError: an extent reaches beyond its block.
          trio.TooSlowError: see `CoreBlocks.fetch`.
        """
        if len(pieces) == 1:
            piece = pieces[0]
            if type(piece) is Span:
                # Nothing else can lie beside a span, which is of all that its file has.
                extents = await self._blobs.extents(piece)
                return b"".join(await self.blocks.complete(lambda: self._all(extents)))
            return await self.blocks.complete(lambda: self._piece(piece))
        return b"".join(await self.blocks.complete(lambda: self._all(pieces)))

    async def blob_blocks(self, blob: Blob, start: int, end: int) -> Iterable[int]:
        """The blocks that bytes *start* to *end* of a blob probably lie in: over all bytes, all its
        blocks. Raises as `read`."""
        return await self._blobs.blocks(Span(start, end - start, blob))

    def hint(self, pieces: Iterable[Piece]) -> None:
        """Have the blocks of *pieces* fetched in the background."""
        core = self.blocks.core
        blocks = [piece.block for piece in pieces if type(piece) is Extent]
        for piece in pieces:
            if type(piece) is Span:
                blocks += self._blobs.likely_blocks(piece)
        if blocks and not all(map(core.has, blocks)):
            core.hint(blocks)

    def _all(self, pieces: Sequence[Piece]) -> list[bytes]:
        out: list[bytes] = []
        missing: list[int] = []
        for piece in pieces:
            try:
                out.append(self._piece(piece))
            except BlocksMissing as error:
                missing += error.indices
        if missing:
            raise BlocksMissing(missing)
        return out

    def _piece(self, piece: Piece) -> bytes:
        if type(piece) is not Extent:
            return bytes(piece.length)
        block = self._block(piece.block)
        start, end = piece.block_offset, piece.block_offset + piece.length
        if end > len(block):
            raise DecodeError("extent within its block", end)
        if start == 0 and end == len(block):
            return block
        return block[start:end]

    def _block(self, index: int) -> bytes:
        cached = self._cache.get(index)
        if cached is not None:
            self._cache.move_to_end(index)
            return cached
        block = self.blocks.block(index)
        if self.on_read is not None:
            self.on_read(index)
        self._cache[index] = block
        self._cached += len(block)
        while self._cached > CACHED_BLOCK_BYTES:
            self._cached -= len(self._cache.popitem(last=False)[1])
        return block
