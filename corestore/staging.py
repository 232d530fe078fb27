"""Blocks that are to be appended to one core, hashed but not yet signed or written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from corestore import tree
from corestore.commit import Commit
from corestore.state import MAX_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from corestore.encryption import BlockCipher
    from corestore.state import CoreState
    from corestore.tree import Head, Node, TreeBatch

# Hashing runs at 1.6 GB/s: up to this size it costs less than the hop to a thread and back.
HASH_IN_PLACE: Final = 256 << 10
# What an append hashes and stores between two turns for other tasks: 1 ms of the loop.
PORTION_BLOCKS: Final = 512
PORTION_BYTES: Final = 4 << 20


class Staged:
    """What one core is to get, on top of the head it had when this was made.

    The maker holds the core's commit lock until `commit` was called and its result written.

    Raises:
      NotWritable, StorageLocked: see `CoreState.prepare_signing`.
    """

    def __init__(self, state: CoreState) -> None:
        state.prepare_signing()
        self.state = state
        self._base = state.head
        self._batches: list[TreeBatch] = []
        self._user_data: dict[str, bytes | None] = {}

    @property
    def length(self) -> int:
        """Blocks in the log, staged ones included."""
        return self._tip.length

    @property
    def byte_length(self) -> int:
        """Bytes in the log, staged ones included, as its readers count them."""
        return self._tip.byte_length - self.state.padding * self._tip.length

    @property
    def _tip(self) -> Head | TreeBatch:
        return self._batches[-1] if self._batches else self._base

    async def append(
        self, blocks: Sequence[bytes | memoryview], leaves: Sequence[Node] | None = None
    ) -> int:
        """Stage *blocks*; returns the index the first of them will have.

        The blocks' bytes must not change before the commit. *leaves* are their leaf nodes if they
        were hashed before. Cancelled, it has staged nothing.

        Raises:
          ValueError: a block above 15 MiB, leaves of other blocks, or leaves for a core whose
            blocks are encrypted first.
        """
        cipher = self.state.cipher
        if cipher is not None and leaves is not None:
            raise ValueError("leaves are of stored blocks, and these are yet to be encrypted")
        sizes = [len(block) for block in blocks]
        if max(sizes, default=0) > MAX_BLOCK_BYTES:
            raise ValueError(f"a block of {max(sizes)} bytes; at most {MAX_BLOCK_BYTES}")
        hashing, fork = self.state.hashing, self._base.fork
        in_place = leaves is not None or sum(sizes) <= HASH_IN_PLACE
        if in_place and not hashing.locked():
            return self._stage(blocks, leaves)
        # Two tasks may append to one transaction: the later one's blocks come after.
        async with hashing:
            if in_place:
                return self._stage(blocks, leaves)
            tip = self._tip
            batches: list[TreeBatch] = []
            for start, end in _portions(sizes):
                prepared, hashed = await trio.to_thread.run_sync(
                    _prepare, tip.length, blocks[start:end], cipher, fork
                )
                tip = tree.append_leaves(tip, hashed, prepared)
                batches.append(tip)
            first = self.length
            self._batches += batches
            return first

    def _stage(self, blocks: Sequence[bytes | memoryview], leaves: Sequence[Node] | None) -> int:
        start = self.length
        if leaves is None:
            blocks, leaves = _prepare(start, blocks, self.state.cipher, self._base.fork)
        self._batches.append(tree.append_leaves(self._tip, leaves, blocks))
        return start

    def set_user_data(self, key: str, value: bytes | None) -> None:
        """Stage a value kept with the core; None deletes it."""
        self._user_data[key] = value

    async def lay(self, write: Callable[[CoreState, Commit], None]) -> None:
        """Store with *write* what is too much for one transaction in several, which count for
        nothing before what `commit` returns is written. Other tasks get turns in between.

        Cancelled, or failed, it leaves what the next append overwrites.

        Raises:
          NotWritable, MustRecover, ForkConflict: signing it is forbidden by now.
          OSError: the disk is full.
          StorageError: the store cannot be used any more.
        """
        if len(self._batches) < 2:
            return
        # The last one brings blocks, by which it is known to go on.
        self._batches = [batch for batch in self._batches if batch.blocks] or self._batches[-1:]
        first = 2 * self._base.length
        sizes = [sum([len(block.data) for block in batch.blocks]) for batch in self._batches]
        counts = [len(batch.blocks) for batch in self._batches]
        portions = list(_portions(sizes, counts))
        # The last one comes with the head.
        for start, end in portions[:-1]:
            self.state.prepare_signing()
            batches = self._batches[start:end]
            part = Commit(
                blocks=[block for batch in batches for block in batch.blocks],
                nodes=[node for batch in batches for node in batch.nodes if node.index >= first],
            )
            write(self.state, part)
            for at, batch in enumerate(batches, start):
                # Those that join the new blocks with the log as it is are the head's.
                nodes = [node for node in batch.nodes if node.index < first]
                self._batches[at] = replace(batch, blocks=[], nodes=nodes)
            await trio.lowlevel.checkpoint()

    def commit(self) -> Commit | None:
        """All that is staged, its head to be signed later; None if nothing is.

        Raises:
          NotWritable, MustRecover, ForkConflict: signing it is forbidden by now.
          StorageConflict: the core changed although its lock was held.
        """
        if not self._batches and not self._user_data:
            return None
        batch = None
        if self._batches:
            self.state.prepare_signing()
            batch = _joined(self._batches)
        return self.state.append_commit(self._base, batch, self._user_data)


def append_commit(state: CoreState, blocks: Sequence[bytes | memoryview]) -> Commit:
    """What appends *blocks* alone and at once, to a core that is `free_to_append`.

    Raises:
      NotWritable: our key pair alone is no quorum of the manifest's signers.
    """
    head = state.head
    blocks, leaves = _prepare(head.length, blocks, state.cipher, head.fork)
    return state.append_commit(head, tree.append_leaves(head, leaves, blocks), {})


def _portions(
    sizes: Sequence[int], counts: Sequence[int] | None = None
) -> Iterator[tuple[int, int]]:
    """Ranges of items of which each has so many bytes, and so many blocks (one)."""
    start = size = count = 0
    for at, each in enumerate(sizes):
        blocks = 1 if counts is None else counts[at]
        if at > start and (count + blocks > PORTION_BLOCKS or size + each > PORTION_BYTES):
            yield start, at
            start, size, count = at, 0, 0
        size += each
        count += blocks
    if start < len(sizes):
        yield start, len(sizes)


def _prepare(
    start: int, blocks: Sequence[bytes | memoryview], cipher: BlockCipher | None, fork: int
) -> tuple[Sequence[bytes | memoryview], list[Node]]:
    """What to store for *blocks*, of which the first is block *start*, and its leaves."""
    if cipher is not None:
        blocks = [cipher.encrypt(start + i, fork, bytes(b)) for i, b in enumerate(blocks)]
    return blocks, tree.hash_leaves(start, blocks)


def _joined(batches: Sequence[TreeBatch]) -> TreeBatch:
    """Batches that were built on one another, as one."""
    last = batches[-1]
    if len(batches) == 1:
        return last
    nodes = [node for batch in batches for node in batch.nodes]
    blocks = [block for batch in batches for block in batch.blocks]
    return replace(last, nodes=nodes, blocks=blocks)
