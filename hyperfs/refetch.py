"""Fetches a drive of one's own that is recovered: what the versions need that were kept.

Which those are, the newest root tells. Peers may still have what was given back before, or may have
given back more; nobody waits for what no peer has.
"""

from __future__ import annotations

import logging
from array import array
from typing import TYPE_CHECKING, Final

import trio

from corestore import DecodeError
from hyperfs.blocks import CoreBlocks, Patience
from hyperfs.errors import UnsupportedFormat
from hyperfs.index.node import BlocksMissing
from hyperfs.index.root import decode_root
from hyperfs.pace import Pace
from hyperfs.reach import Reach

if TYPE_CHECKING:
    from corestore import Hypercore
    from hyperfs.blockset import BlockSet
    from hyperfs.index.root import RootInfo

logger: Final = logging.getLogger("hyperfs")

# A block of the index that does not come in this time is not to be had.
_PATIENCE_SECONDS: Final = 10.0
# How many older blocks are asked for at a time.
_PORTION_BLOCKS: Final = 4096


async def fetch_kept(metadata: Hypercore, content: Hypercore) -> None:
    """Fetch what kept versions need of both logs, as far as peers have it. If nothing was ever
    given back, or it cannot be known what that was, that is all of them.

    Cancelled, what has arrived stays. Raises as `Hypercore.download`.
    """
    try:
        if metadata.length and await _fetch_counted(metadata, content):
            return
    except (trio.TooSlowError, DecodeError, UnsupportedFormat, BlocksMissing) as error:
        logger.info("drive %s is fetched from end to end: %s", metadata.key, error)
    for core in (metadata, content):
        await core.download(obtainable=True)


async def _fetch_counted(metadata: Hypercore, content: Hypercore) -> bool:
    """Fetch what is counted as needed; False if nothing was ever given back, as nothing is counted
    then. Raises TooSlowError, DecodeError, UnsupportedFormat, BlocksMissing: it cannot be counted.
    """
    await metadata.download(metadata.length - 1, obtainable=True)
    blocks = CoreBlocks(metadata, Patience(_PATIENCE_SECONDS), check=True)
    info = await _root(blocks, metadata.length - 1)
    if not info.oldest:
        return False
    oldest = await _root(blocks, info.oldest - 1)
    await metadata.download(oldest.index, obtainable=True)
    await content.download(oldest.content_length, obtainable=True)
    roots = array("q", [info.index])
    while info.previous is not None and info.previous >= oldest.index:
        info = await _root(blocks, info.previous)
        roots.append(info.index)
    reach = Reach(blocks, ahead=metadata.hint)
    pace = Pace()
    for root in reversed(roots):
        while True:
            try:
                for _ in reach.add_version(root):
                    await pace.keep()
                break
            except BlocksMissing as missing:
                await blocks.fetch(missing.indices)
    await _fetch(metadata, reach.metadata, oldest.index)
    await _fetch(content, reach.content, oldest.content_length)
    return True


async def _fetch(core: Hypercore, needed: BlockSet, end: int) -> None:
    """Those below *end*."""
    missing = array("q")
    pace = Pace()
    for index in range(end):
        if index in needed and not core.has(index):
            missing.append(index)
        await pace.keep()
    for start in range(0, len(missing), _PORTION_BLOCKS):
        await core.download(blocks=missing[start : start + _PORTION_BLOCKS], obtainable=True)


async def _root(blocks: CoreBlocks, index: int) -> RootInfo:
    def read() -> RootInfo:
        root = decode_root(blocks.block(index), index)
        if root is None:
            raise DecodeError("root block")
        return root.info

    return await blocks.complete(read)
