"""How much of a file is here, without asking anybody for content."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from hyperfs.blobs import Span
from hyperfs.content import ContentMap
from hyperfs.extents import Extent
from hyperfs.pace import Pace

if TYPE_CHECKING:
    from corestore import Hypercore
    from hyperfs.blobs import Piece
    from hyperfs.live import LiveTree
    from hyperfs.records import Entry

# Of a large file so much is looked at at a time.
_STEP_BYTES: Final = 64 << 20


async def held_bytes(tree: LiveTree, entry: Entry) -> int:
    """How many bytes of the file can be read without a peer: holes, and what is in its record or
    in blocks that are here. Of blobs it is an estimate, as the blocks' sizes are.

    Waits for the records of large files. Raises TooSlowError, DecodeError.
    """
    view, blocks = tree.view, tree.content_blocks
    if view is None or blocks is None or entry.inline is not None:
        return entry.size
    file = tree.files.get(entry.id)
    content = ContentMap.of_entry(entry, view) if file is None else file.content
    pace = Pace()
    # What was written and not yet appended is here, whatever it replaces.
    held = max(0, entry.size - content.size)
    for start in range(0, min(content.size, entry.size), _STEP_BYTES):
        stop = min(start + _STEP_BYTES, content.size, entry.size)
        look = partial(content.pieces, start, stop)
        for piece in await tree.metadata_blocks.complete(look):
            held += _held(piece, blocks.core)
            await pace.keep()
    return held


def _held(piece: Piece, core: Hypercore) -> int:
    if isinstance(piece, Extent):
        return piece.length if core.has(piece.block) else 0
    if not isinstance(piece, Span):
        return piece.length
    likely = piece.blob.likely_blocks(piece.offset, piece.end)
    here = sum(core.has(index) for index in likely)
    return piece.length * here // max(1, len(likely))
