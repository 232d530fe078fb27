"""Files that many small changes have scattered over the content log are stored anew in one piece.

A stretch of a file counts as scattered when it has more than twice as many extents as it would have
if it had been written at once. Its bytes are laid over themselves in the open file and go the way
of any change, so programs may use the file meanwhile; the dirty bound holds, times stay.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from hyperfs import paths, walk
from hyperfs.extents import WINDOW_BYTES, Extent
from hyperfs.pace import Pace
from hyperfs.paging import Pages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperfs.blobs import Piece
    from hyperfs.live import LiveTree
    from hyperfs.writer import OpenFile

# Chunks are 64 KiB on average.
_DENSE_BYTES: Final = 64 * 1024
_SPARE_EXTENTS: Final = 4


async def rewrite_scattered(tree: LiveTree) -> None:
    """Stage every scattered stretch of every file again.

    Raises OSError, StorageError, DecodeError, as reading and writing the files does.
    """
    done: set[int] = set()
    async for found in Pages(walk.Walk(tree, ()).page):
        entry = found.entry
        if not entry.is_file or not (entry.extents or entry.grouped) or entry.id in done:
            continue
        if entry.nlink > 1:
            done.add(entry.id)
        try:
            file = await walk.open_path(tree, paths.split(found.path))
        except OSError:
            # Removed or renamed since: its new name may come yet, and if not nothing is lost.
            continue
        try:
            await _rewrite(tree, file)
        finally:
            file.release()


async def _rewrite(tree: LiveTree, file: OpenFile) -> None:
    pace = Pace()
    for start in range(0, file.size, WINDOW_BYTES):
        await pace.keep()
        content = file.content
        end = min(start + WINDOW_BYTES, content.size)
        if content.inline is not None or end <= start:
            continue
        pieces = await tree.metadata_blocks.complete(partial(content.pieces, start, end))
        for low, high in scattered(pieces):
            # Nothing suspends between the two but blocks that are not here, and ours are.
            data = await file.read(low, high - low)
            await file.store_again(low, data)


def scattered(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """The stretches between holes, as file offsets, that have too many extents."""
    out: list[tuple[int, int]] = []
    run: list[Extent] = []
    for piece in [*pieces, None]:
        if isinstance(piece, Extent):
            run.append(piece)
            continue
        if run:
            start, end = run[0].offset, run[-1].offset + run[-1].length
            if len(run) > 2 * ((end - start) // _DENSE_BYTES) + _SPARE_EXTENTS:
                out.append((start, end))
        run = []
    return out
