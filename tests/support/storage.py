"""Builders and shorthands for the tests of storage: commits as the layers above make them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from corestore.commit import Commit, Run, StoredBlock
from corestore.keys import Key
from corestore.storage import CoreRecord
from corestore.tree import batch, flat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from corestore.storage import CoreStorage, Storage
    from corestore.tree.types import Head, Node


def record(number: int = 0, *, ours: bool = True) -> CoreRecord:
    """The record of core *number*, one of ours or somebody else's."""
    key = Key(bytes([number + 1]) * 32)
    return CoreRecord(key, None, b"signer" if ours else None)


def data_file(path: Path, number: int = 0) -> Path:
    """Where the store in *path* has the blocks of core *number*."""
    text = record(number).key.discovery_key.hex()
    return path / "data" / text[:2] / text


def signature(number: int) -> bytes:
    """64 bytes that stand for a signature."""
    return bytes([number % 251 + 1]) * 64


def some_blocks(seed: int, count: int, size: int = 100) -> list[bytes]:
    """*count* random blocks of about *size* bytes, the same for the same seed."""
    source = random.Random(seed)
    return [source.randbytes(size + source.randrange(size // 2 + 1)) for _ in range(count)]


def append(head: Head, blocks: Sequence[bytes]) -> Commit:
    """What appends *blocks* to a log that ends in *head*."""
    built = batch.append(head, blocks)
    return Commit(
        blocks=built.blocks,
        nodes=built.nodes,
        runs=[Run(head.length, built.length, True)],
        head=built.head(signature(built.length)),
    )


def append_in_two(head: Head, blocks: Sequence[bytes], ahead: int) -> tuple[Commit, Commit]:
    """As `append`, with the first *ahead* of the blocks laid ahead by a commit of their own."""
    whole = append(head, blocks)
    laid = range(2 * head.length, 2 * (head.length + ahead), 2)
    return (
        Commit(
            blocks=whole.blocks[:ahead],
            nodes=[node for node in whole.nodes if node.index in laid],
        ),
        replace(
            whole,
            blocks=whole.blocks[ahead:],
            nodes=[node for node in whole.nodes if node.index not in laid],
        ),
    )


def append_to(storage: Storage, core: CoreStorage, blocks: Sequence[bytes]) -> None:
    """Append *blocks* to *core* and commit that."""
    storage.commit([(core, append(core.head, blocks))])


class RemoteLog:
    """A log of somebody else, whole, from which parts are committed as if they had been proven."""

    def __init__(self, blocks: Sequence[bytes], fork: int = 0) -> None:
        built = batch.append(batch.Head(fork=fork), blocks)
        self.data = list(blocks)
        self.head = built.head(signature(len(blocks) + fork))
        self.nodes: dict[int, Node] = {node.index: node for node in built.nodes}
        self.offsets = [block.byte_offset for block in built.blocks]

    def upgrade(self, truncate: int | None = None) -> Commit:
        """The head and its roots, without a block."""
        return Commit(truncate=truncate, nodes=self.head.roots, head=self.head)

    def fetched(self, indices: Iterable[int], *, leaves: bool = True) -> Commit:
        """Blocks, with the nodes that prove them."""
        chosen = list(indices)
        nodes = {i: self.nodes[i] for index in chosen for i in self.path(index)}
        if not leaves:
            nodes = {i: node for i, node in nodes.items() if i & 1}
        return Commit(
            blocks=[StoredBlock(i, self.offsets[i], self.data[i]) for i in chosen],
            nodes=list(nodes.values()),
            runs=[Run(i, i + 1, True) for i in chosen],
        )

    def path(self, index: int) -> list[int]:
        """The leaf of a block, and what one needs to hash it up to a root."""
        found = [2 * index]
        roots = {root.index for root in self.head.roots}
        while found[-1] not in roots:
            found.append(flat.sibling(found[-1]))
            found.append(flat.parent(found[-1]))
        return found


def held(core: CoreStorage) -> list[int]:
    """The indices whose bits are set."""
    return [
        4096 * number + bit
        for number, page in core.bitfield_pages()
        for bit in range(4096)
        if page[bit >> 3] >> (bit & 7) & 1
    ]
