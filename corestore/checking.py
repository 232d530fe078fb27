"""Finding what a disk has damaged: the stored blocks of a core against the leaves of its tree.

What comes from a peer is proved before it is stored, and read from the disk without a further look:
hashing again costs more than the read. So this is for when somebody asks, or when a peer leaves as
if a block had been damaged.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from corestore import crypto
from corestore.commit import Commit, Run
from corestore.errors import StorageCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from corestore.driver import Driver
    from corestore.state import CoreState
    from corestore.tree import Node

logger: Final = logging.getLogger("corestore")

# So many bytes are read, and then hashed in a thread.
_PORTION_BYTES: Final = 1 << 20


class Findings(NamedTuple):
    """What `Hypercore.check` has found, by block.

    `damaged` ones are forgotten. `unreadable` are those of a core written here that the disk fails
    to read: they are kept, for it may be the cable.
    """

    damaged: list[int]
    unreadable: list[int]


async def check(driver: Driver, state: CoreState, start: int, end: int) -> Findings:
    """The held blocks of `start..end` that are not what the tree says, or cannot be read.

    Raises:
      StorageLocked: some are damaged, and another process writes this core.
      OSError: anything but a failing disk (EIO).
    """
    damaged, unreadable = await _find(state, start, end)
    if not state.writable:
        damaged, unreadable = sorted(damaged + unreadable), []
    if damaged:
        await _forget(driver, state, damaged)
    return Findings(damaged, unreadable)


async def check_served(driver: Driver, state: CoreState, indices: Iterable[int]) -> None:
    """Look at blocks that a peer may have found damaged.

    Those that are so are told in the log. They are forgotten and fetched anew from others, but not
    of a core that is written here: what is to become of the only copy is for its owner to say.

    Raises: as `check`.
    """
    damaged: list[int] = []
    run: list[int] = []
    for index in (*sorted(set(indices)), -1):
        if run and index != run[-1] + 1:
            found, unreadable = await _find(state, run[0], run[-1] + 1)
            damaged += sorted(found + unreadable)
            run.clear()
        run.append(index)
    if not damaged:
        return
    logger.error(
        "the disk has damaged %d blocks of core %s that a peer was sent, block %d first",
        len(damaged),
        state.key,
        damaged[0],
    )
    if not state.writable and await _forget(driver, state, damaged):
        state.replicator.want_range(blocks=damaged)
        driver.drain(state)


async def _find(state: CoreState, start: int, end: int) -> Findings:
    findings = Findings([], [])
    for first, stop in list(state.bitfield.runs(start, min(end, state.head.length))):
        at = first
        while at < stop:
            at = await _check_portion(state, at, stop, findings)
    return findings


async def _check_portion(state: CoreState, at: int, stop: int, findings: Findings) -> int:
    """Where to go on."""
    blocks: list[tuple[int, bytes, bytes]] = []
    size = 0
    while at < stop and size < _PORTION_BYTES:
        try:
            block, leaf = state.block(at), state.node(2 * at)
        except StorageCorrupt:
            findings.damaged.append(at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            findings.unreadable.append(at)
        else:
            if block is not None:
                blocks.append((at, block, b"" if leaf is None else leaf.hash))
                size += len(block)
        at += 1
    findings.damaged.extend(await trio.to_thread.run_sync(_differing, blocks))
    return at


def _differing(blocks: Iterable[tuple[int, bytes, bytes]]) -> list[int]:
    return [index for index, block, digest in blocks if crypto.leaf_hash(block) != digest]


async def _forget(driver: Driver, state: CoreState, damaged: Iterable[int]) -> bool:
    """Whether that could be done: while its blocks were hashed, a core that nobody has open may
    have left the cache, and may have been loaded again as another `CoreState`."""
    async with state.commit_lock:
        if driver.states.get(state.discovery_key) is not state:
            return False
        # One that was fetched anew meanwhile is good.
        runs = tuple(
            Run(index, index + 1, False) for index in damaged if not _is_good(state, index)
        )
        if runs:
            driver.commit([(state, Commit(runs=runs))])
    return True


def _is_good(state: CoreState, index: int) -> bool:
    try:
        return is_intact(state, index)
    except OSError:
        return False


def is_intact(state: CoreState, index: int) -> bool:
    """Whether block *index* is not held, or is what the tree says. Raises OSError."""
    try:
        block, leaf = state.block(index), state.node(2 * index)
    except StorageCorrupt:
        return False
    return block is None or _is_leaf(leaf, block)


def is_stored_block(state: CoreState, index: int, block: bytes) -> bool:
    """Whether *block*, as it was read, is what the tree says of block *index*."""
    return _is_leaf(state.node(2 * index), block) or (
        # Another process may have changed both between the two reads.
        is_intact(state, index) and state.block(index) == block
    )


def _is_leaf(leaf: Node | None, block: bytes) -> bool:
    return leaf is not None and crypto.leaf_hash(block) == leaf.hash
