"""Append to a log and truncate it: what a head becomes, as a value not yet committed.

Only the roots of a log are needed to append to it. A leaf is pushed as a new root; while the last
two roots are siblings their parent takes their place. Hashing the blocks is all but all of the
work, so `hash_leaves` stands apart: it may run in a thread while `append_leaves` waits its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.encoding import MAX_SAFE_INTEGER
from corestore.tree import flat
from corestore.tree.types import Head, Node, NodeNotAvailable, StoredBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from corestore.tree.types import NodeReader

# Named tuples from tuples, without the call of a Python function that their constructors are: two
# thirds of a batch of small blocks is making these.
_node: Final[Callable[[tuple[int, int, bytes]], Node]] = partial(tuple.__new__, Node)
_stored: Final[Callable[[tuple[int, int, bytes | memoryview]], StoredBlock]] = partial(
    tuple.__new__, StoredBlock
)


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """A log after a change that is not yet signed, with what the change adds to storage.

    Attributes:
      fork, length, byte_length, roots: the state after the change.
      nodes: new tree nodes, leaves included, children before parents.
      blocks: the bytes to store, with their places; empty after a truncation.
    """

    fork: int
    length: int
    byte_length: int
    roots: tuple[Node, ...]
    nodes: Sequence[Node] = ()
    blocks: Sequence[StoredBlock] = ()

    def tree_hash(self) -> bytes:
        """The hash that stands for the whole log after the change; what is signed."""
        return crypto.tree_hash(self.roots)

    def head(self, signature: bytes) -> Head:
        """The head this becomes with a signature over it."""
        return Head(self.fork, self.length, self.byte_length, self.roots, signature)


def hash_leaves(start: int, blocks: Sequence[bytes | memoryview]) -> list[Node]:
    """The leaves of consecutive blocks from block index *start*.

    Touches nothing else and may run in another thread; blocks of 2 KiB and more are hashed with
    the interpreter's lock released.
    """
    leaf_hash = crypto.leaf_hash
    places = zip(count(2 * start, 2), blocks)
    return [_node((index, len(block), leaf_hash(block))) for index, block in places]


def append(head: Head, blocks: Sequence[bytes | memoryview]) -> TreeBatch:
    """The log with *blocks* appended."""
    return append_leaves(head, hash_leaves(head.length, blocks), blocks)


def append_leaves(
    head: Head | TreeBatch, leaves: Sequence[Node], blocks: Sequence[bytes | memoryview]
) -> TreeBatch:
    """As `append`, with the leaves hashed before: `hash_leaves(head.length, blocks)`.

    Raises:
      ValueError: the leaves are not those of these blocks at the end of this log, as when
        somebody else appended while they were being hashed.
    """
    if len(leaves) != len(blocks):
        raise ValueError(f"{len(leaves)} leaves for {len(blocks)} blocks")
    if leaves and leaves[0].index != 2 * head.length:
        raise ValueError(f"leaf {leaves[0].index} cannot follow {head.length} blocks")
    length = head.length
    byte_length = head.byte_length
    roots = list(head.roots)
    nodes: list[Node] = []
    stored: list[StoredBlock] = []
    parent_hash = crypto.parent_hash
    for node, block in zip(leaves, blocks, strict=True):
        stored.append(_stored((length, byte_length, block)))
        nodes.append(node)
        length += 1
        byte_length += node.size
        # The trailing zero bits of the new length count the siblings that are now complete.
        complete, half = length, 1
        while not complete & 1:
            left = roots.pop()
            size = left.size + node.size
            node = _node((left.index + half, size, parent_hash(size, left.hash, node.hash)))
            nodes.append(node)
            complete >>= 1
            half <<= 1
        roots.append(node)
    return TreeBatch(head.fork, length, byte_length, tuple(roots), nodes, stored)


def truncate(head: Head, length: int, fork: int, *, nodes: NodeReader) -> TreeBatch:
    """The log cut to its first *length* blocks, on a new *fork*.

    With the fork of the head it only looks up an earlier state of the same history; signing such
    a batch again with other blocks after it makes two histories, so a shorter log needs a higher
    fork.

    Raises:
      ValueError: *length* is more than the log has, or *fork* is lower than the head's or beyond
        53 bits.
      NodeNotAvailable: a root of the shorter log is not known here.
    """
    if not 0 <= length <= head.length:
        raise ValueError(f"cannot truncate {head.length} blocks to {length}")
    if fork < head.fork:
        raise ValueError(f"fork {fork} is older than fork {head.fork}")
    if fork > MAX_SAFE_INTEGER:
        raise ValueError(f"fork {fork} is beyond 53 bits, and cannot be told to anybody")
    roots = roots_at(head, length, nodes=nodes)
    return TreeBatch(fork, length, sum(root.size for root in roots), roots)


def roots_at(head: Head, length: int, *, nodes: NodeReader) -> tuple[Node, ...]:
    """The roots the log had when it was *length* blocks long.

    Raises:
      NodeNotAvailable: one of them is not known here.
    """
    if length == head.length:
        return head.roots
    roots = []
    for index in flat.full_roots(2 * length):
        root = nodes.node(index)
        if root is None:
            raise NodeNotAvailable(index)
        roots.append(root)
    return tuple(roots)
