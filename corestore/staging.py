"""Blocks that are to be appended to one core, hashed but not yet signed or written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from corestore import tree
from corestore.state import MAX_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corestore.commit import Commit
    from corestore.encryption import BlockCipher
    from corestore.state import CoreState
    from corestore.tree import Head, Node, TreeBatch

# Hashing runs at 1.6 GB/s: up to this size it costs less than the hop to a thread and back.
HASH_IN_PLACE: Final = 256 << 10


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
        hashing = self.state.hashing
        in_place = leaves is not None or sum(sizes) <= HASH_IN_PLACE
        if in_place and not hashing.locked():
            return self._stage(blocks, leaves)
        # Two tasks may append to one transaction: the later one's blocks come after.
        async with hashing:
            if not in_place:
                blocks, leaves = await trio.to_thread.run_sync(
                    _prepare, self.length, blocks, cipher, self._base.fork
                )
            return self._stage(blocks, leaves)

    def _stage(self, blocks: Sequence[bytes | memoryview], leaves: Sequence[Node] | None) -> int:
        start = self.length
        if leaves is None:
            blocks, leaves = _prepare(start, blocks, self.state.cipher, self._base.fork)
        self._batches.append(tree.append_leaves(self._tip, leaves, blocks))
        return start

    def set_user_data(self, key: str, value: bytes | None) -> None:
        """Stage a value kept with the core; None deletes it."""
        self._user_data[key] = value

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
