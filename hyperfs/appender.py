"""Turns unflushed writes into blocks of the content core: cut, deduplicate, pack, append.

Each dirty range is cut at content-defined places, so that equal content makes equal chunks wherever
it lies. A chunk the drive already has is not stored again; small ones of one commit share blocks.
A range begins again at the boundary before it where that costs little: so a file that grows by many
appends keeps few extents, and its chunks become those of a file written at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore import BlockNotAvailable
from hyperfs import chunks
from hyperfs.extents import Extent, windows
from hyperfs.pace import Pace
from hyperfs.records import MAX_INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corestore import Corestore, Hypercore
    from hyperfs.chunks import ChunkTable
    from hyperfs.content import ContentMap
    from hyperfs.delta import Delta
    from hyperfs.dirty import Run
    from hyperfs.reader import ContentReader

# One content transaction: its write takes 0.7 ms of the loop, its hashing 1.4 ms of a thread.
FLUSH_BYTES: Final = 1024 * 1024
# Smaller pieces share a block. It is also the least size of a chunk that is not the end of a range.
PACK_BELOW: Final = 16 * 1024
PACK_BYTES: Final = 64 * 1024
# Below, the table costs more than the bytes.
DEDUPLICATE_FROM: Final = 2 * 1024
# A change begins again at the boundary before it if that repeats no more bytes than it has, or than
# this: a log that is synced line by line then rewrites one page each time, as on a disk, and
# makes an extent a page and not one a line.
RECUT_BYTES: Final = 4 * 1024
# A window of a grouped file with more extents is rewritten whole: 256 KiB for every 64 changes of a
# page, so as many bytes again as the changes themselves.
WINDOW_EXTENTS: Final = 64
# How much is cut in one go, at 3 GB/s.
_CUT_BYTES: Final = 1024 * 1024


class Appender:
    """Collects the blocks of one commit, or of one flush; appends them when there are enough.

    The caller holds the right to sign, and appends to the content core in no other way, so the
    index of every block is known when its bytes are placed.
    """

    def __init__(
        self, store: Corestore, content: Hypercore, reader: ContentReader, table: ChunkTable
    ) -> None:
        self._store = store
        self._content = content
        self._reader = reader
        self._table = table
        self._base = content.length
        self._blocks: list[bytes | bytearray] = []
        self._size = 0
        self._pack: bytearray | None = None
        self._pack_block = 0
        # Chunks placed and not yet appended, by fingerprint.
        self._placed: dict[bytes, tuple[int, int, int]] = {}
        self._pace = Pace()

    # -- blocks ------------------------------------------------------------------------------

    def place(self, data: bytes | memoryview) -> tuple[int, int]:
        """The block, and the offset in it, at which *data* will be found."""
        length = len(data)
        if length < DEDUPLICATE_FROM:
            return self._add(data)
        fingerprint = self._table.fingerprint(data)
        known = self._placed.get(fingerprint) or self._table.find(fingerprint)
        # As bytes: views are compared one by one, at 1 GB/s.
        if known is not None and known[2] == length and self._bytes_at(*known) == bytes(data):
            return known[0], known[1]
        block, offset = self._add(data)
        self._placed[fingerprint] = (block, offset, length)
        return block, offset

    def _add(self, data: bytes | memoryview) -> tuple[int, int]:
        length = len(data)
        self._size += length
        if length >= PACK_BELOW:
            self._blocks.append(bytes(data))
            return self._base + len(self._blocks) - 1, 0
        pack = self._pack
        if pack is None or len(pack) + length > PACK_BYTES:
            pack = self._pack = bytearray()
            self._blocks.append(pack)
            self._pack_block = self._base + len(self._blocks) - 1
        offset = len(pack)
        pack += data
        return self._pack_block, offset

    def _bytes_at(self, block: int, offset: int, length: int) -> bytes | bytearray:
        if block >= self._base:
            return self._blocks[block - self._base][offset : offset + length]
        try:
            return self._content.get_nowait(block)[offset : offset + length]
        except BlockNotAvailable:
            return b""

    def take(self) -> list[bytes]:
        """What is placed and not yet appended, for the caller to append at once."""
        return [bytes(b) if isinstance(b, bytearray) else b for b in self._blocks]

    def appended(self) -> None:
        """What `take` returned is in the content core."""
        for fingerprint, (block, offset, length) in self._placed.items():
            self._table.add(fingerprint, block, offset, length)
        self._placed.clear()
        self._base += len(self._blocks)
        self._blocks.clear()
        self._size = 0
        self._pack = None

    async def flush(self) -> None:
        """Append what is placed, in a transaction of its own.

        Raises OSError, StorageError; then nothing placed since the last flush exists.
        """
        if not self._blocks:
            return
        async with self._store.transaction(self._content) as transaction:
            start = await transaction.append(self._content, *self.take())
            self.check_start(start)
        self.appended()

    def check_start(self, start: int) -> None:
        """Raise unless an append of `take` began at *start*, where the placed blocks belong."""
        if start != self._base:
            raise RuntimeError(
                f"somebody else appended to the content core: {start}, not {self._base} blocks"
            )

    # -- files -------------------------------------------------------------------------------

    async def append(self, content: ContentMap, delta: Delta) -> ContentMap:
        """*content* with *delta* laid over it; the bytes are placed, some appended already.

        *delta* must not change meanwhile. Raises OSError, StorageError, DecodeError.
        """
        ranges = delta.ranges.runs()
        size = delta.size
        old_size = min(content.size, delta.cut)
        if size <= MAX_INLINE_BYTES and (old_size == 0 or _covers(ranges, old_size)):
            data = bytearray(size)
            for offset, piece in ranges:
                data[offset : offset + len(piece)] = piece[:]
            cleared = content.write(0, (), size)
            return cleared.with_inline(bytes(data)) if size else cleared
        new: list[Extent] = []
        if old_size == 0 and len(ranges) == 1 and ranges[0][0] == 0 and size <= chunks.LEAST_BYTES:
            # Most files are new and small: there is nothing to read, or to cut.
            piece = ranges[0][1]
            if len(piece) == size:
                new.append(Extent(0, *self.place(piece[:]), size))
                if self._size >= FLUSH_BYTES:
                    await self.flush()
                await self._pace.keep()
                return content.write(delta.cut, new, size)
        end = 0
        for offset, piece in ranges:
            start = max(self._begin(content, offset, len(piece), old_size), end)
            lead = b""
            if start < offset:
                lead = await self._reader.read(content.pieces(start, offset))
            await self._cut(start, lead, piece, new)
            end = offset + len(piece)
        result = content.write(delta.cut, new, size)
        if result.grouped:
            result = await self._defragment(result, ranges)
        return result

    def _begin(self, content: ContentMap, offset: int, length: int, old_size: int) -> int:
        if offset > old_size:
            return offset
        boundary = content.boundary_before(offset)
        return boundary if offset - boundary <= max(length, RECUT_BYTES) else offset

    async def _cut(
        self, start: int, lead: bytes, data: Run | memoryview, new: list[Extent]
    ) -> None:
        """Place *lead* and *data*, which begin at file offset *start*; adds to *new*."""
        at = 0
        rest: bytes | memoryview = lead
        while True:
            taken = min(len(data) - at, _CUT_BYTES)
            window = data[at : at + taken]
            if len(rest):
                window = memoryview(b"".join((rest, window)))
            at += taken
            last = at == len(data)
            cuts = chunks.split(window)
            # Where the window ends there is no boundary yet, unless the range does.
            kept = len(cuts) if last else len(cuts) - 1
            used = 0
            for chunk in cuts[:kept]:
                block, block_offset = self.place(chunk)
                new.append(Extent(start, block, block_offset, len(chunk)))
                start += len(chunk)
                used += len(chunk)
                if self._size >= FLUSH_BYTES:
                    await self.flush()
                await self._pace.keep()
            if last:
                return
            rest = window[used:]

    async def _defragment(
        self, content: ContentMap, ranges: Sequence[tuple[int, Run]]
    ) -> ContentMap:
        """Rewrite the windows that changes have left with too many extents."""
        touched: dict[int, None] = {}
        for offset, piece in ranges:
            touched.update(dict.fromkeys(windows(offset, offset + len(piece))))
        for number in touched:
            extents = content.window(number)
            if len(extents) <= WINDOW_EXTENTS:
                continue
            # What is placed but not appended cannot be read yet.
            await self.flush()
            for start, end in _runs(extents):
                data = await self._reader.read(content.pieces(start, end))
                new: list[Extent] = []
                await self._cut(start, b"", memoryview(data), new)
                await self.flush()
                content = content.write(content.size, new, content.size)
        return content


def _covers(ranges: Sequence[tuple[int, Run]], size: int) -> bool:
    """Whether *ranges*, sorted, cover everything before *size*."""
    at = 0
    for offset, piece in ranges:
        if offset > at:
            return False
        at = offset + len(piece)
    return at >= size


def _runs(extents: Sequence[Extent]) -> list[tuple[int, int]]:
    """The stretches of a window to rewrite: between its holes, or all of it if they are many."""
    runs: list[tuple[int, int]] = []
    for extent in extents:
        if runs and runs[-1][1] == extent.offset:
            runs[-1] = runs[-1][0], extent.end
        else:
            runs.append((extent.offset, extent.end))
    if len(runs) > WINDOW_EXTENTS // 2:
        return [(extents[0].offset, extents[-1].end)]
    return runs
