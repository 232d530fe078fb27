"""Where bytes of a blob lie in its content core: guessed, fetched, and made sure of.

The blocks that most likely hold the bytes are asked for first, together. Where a block that is here
begins is known from the tree that verified it, so a good guess costs no further question; a bad one
(a blob written as a stream) costs a byte seek.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from corestore import DecodeError
from hyperfs import extents as ex
from hyperfs.blobs import decode_map, map_extents
from hyperfs.extents import Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hyperfs.blobs import Blob, Span
    from hyperfs.blocks import CoreBlocks

# Each takes up to 50 MB if its writer wants it to, and 150 bytes a block if not.
_MAPS_KEPT: Final = 2


class BlobReader:
    """Turns spans of blobs of one content core into extents."""

    def __init__(self, blocks: CoreBlocks) -> None:
        self._blocks = blocks
        self._maps: OrderedDict[Blob, tuple[Extent, ...]] = OrderedDict()

    async def extents(self, span: Span) -> Sequence[Extent]:
        """The extents of *span*, in order. Their blocks are local, but for those of a map.

        Raises:
          DecodeError: the core's bytes at that place are not the blob's.
          trio.TooSlowError: see `CoreBlocks.fetch`.
        """
        blob = span.blob
        if blob.mapped:
            found = ex.pieces(await self._map(blob), span.offset, span.end)
            return [piece for piece in found if isinstance(piece, Extent)]
        blocks, core = self._blocks, self._blocks.core
        likely = blob.likely_blocks(span.offset, span.end)
        # Of one that was not cut at 64 KiB, this one tells at least that the log has grown so far.
        await blocks.fetch(likely if blob.regular else (blob.block,))
        try:
            position = await blocks.seek(blob.byte_offset + span.offset)
        except ValueError:
            raise DecodeError("bytes of a blob within the content") from None
        index, at = position.index, position.offset
        await blocks.fetch(range(index, min(index + len(likely), blob.block + blob.blocks)))
        out: list[Extent] = []
        offset = span.offset
        while offset < span.end:
            if not blob.block <= index < blob.block + blob.blocks:
                raise DecodeError("bytes of a blob within its blocks")
            if not core.has(index):
                await blocks.fetch((index,))
            size = len(core.get_nowait(index))
            length = min(size - at, span.end - offset)
            if length > 0:
                out.append(Extent(offset, index, at, length))
                offset += length
            index, at = index + 1, 0
        return out

    def likely_blocks(self, span: Span) -> Iterable[int]:
        """The blocks that *span* probably lies in, as far as they can be told at once."""
        blob = span.blob
        if not blob.mapped:
            return blob.likely_blocks(span.offset, span.end)
        found = ex.pieces(self._maps.get(blob, ()), span.offset, span.end)
        return [piece.block for piece in found if isinstance(piece, Extent)]

    async def blocks(self, span: Span) -> Iterable[int]:
        """The same; waits for a map. The spans of a whole blob have all its blocks."""
        blob = span.blob
        if blob.mapped:
            await self._map(blob)
        elif not blob.regular:
            first = blob.block + blob.blocks * span.offset // blob.byte_length
            last = blob.block - (-blob.blocks * span.end // blob.byte_length)
            return range(first, last)
        return self.likely_blocks(span)

    async def _map(self, blob: Blob) -> tuple[Extent, ...]:
        found = self._maps.get(blob)
        if found is None:
            indices = range(blob.block, blob.block + blob.blocks)
            await self._blocks.fetch(indices)
            data = [self._blocks.block(index) for index in indices]
            found = await trio.to_thread.run_sync(lambda: map_extents(decode_map(data)))
            self._maps[blob] = found
            while len(self._maps) > _MAPS_KEPT:
                self._maps.popitem(last=False)
        return found
