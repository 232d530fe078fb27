"""From a byte offset to a block and back, by the sizes in the tree.

Both descend from a root, so they read at most one node a level. A sparse copy of a log may lack
nodes: of a block that is held every node on the way is known; elsewhere a seek ends at the deepest
node it can reach, and `SeekStopped` says what to ask a peer for. To go on:

- send the requests, verify the answer, commit its `nodes`;
- lay its `hints` over the stored nodes (`NodeOverlay`) and seek again through that;
- the position is as certain as the hints are. Once the block it names is held, seek again without
  the overlay: if a peer lied about sizes this leads elsewhere, but never astray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from corestore.tree import flat
from corestore.tree.types import HashRequest, NodeNotAvailable, SeekRequest

if TYPE_CHECKING:
    from corestore.tree.types import Head, NodeReader


class Position(NamedTuple):
    """A place in a log: *offset* bytes into block *index*."""

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    offset: int


@dataclass(frozen=True, slots=True)
class SeekStopped:
    """The seek ended at tree node *node*, whose children are not known here.

    The byte lies in one of the blocks `start..end`.
    """

    node: int
    start: int
    end: int

    def requests(
        self, block: int, offset: int, padding: int = 0
    ) -> tuple[HashRequest, SeekRequest]:
        """What to ask a peer that holds *block*, one of `start..end`, to get on.

        One answer is mostly enough. Where a peer leaves the seek out (hypercore 11.37.1 does so
        below all roots but a log's first), the hash alone halves the range at least, so repeating
        comes to an end.

        Raises:
          ValueError: *block* is not one of them.
        """
        if not self.start <= block < self.end:
            raise ValueError(f"block {block} is not in {self.start}..{self.end}")
        return HashRequest(2 * block, flat.depth(self.node)), SeekRequest(offset, padding)


def byte_offset(index: int, head: Head, *, nodes: NodeReader) -> int:
    """Where block *index* starts, in bytes from the start of the log; `head.length` is its end.

    Raises:
      ValueError: the log has no such block.
      NodeNotAvailable: the block is not held here, and too little is known around it.
    """
    if not 0 <= index <= head.length:
        raise ValueError(f"no block {index} in a log of {head.length}")
    if index == head.length:
        return head.byte_length
    leaf = 2 * index
    before = 0
    for root in head.roots:
        if flat.contains(root.index, leaf):
            break
        before += root.size
    node = root.index
    half = flat.leaf_count(node)
    read = nodes.node
    # Below this node every left sibling of the path counts; a left turn reads nothing.
    while node != leaf:
        half >>= 1
        if leaf < node:
            node -= half
            continue
        left = read(node - half)
        if left is None:
            raise NodeNotAvailable(node - half)
        before += left.size
        node += half
    return before


def seek(offset: int, head: Head, *, nodes: NodeReader, padding: int = 0) -> Position | SeekStopped:
    """The block that holds the byte at *offset*, or where the search stopped for want of nodes.

    Empty blocks hold no byte and are passed over. The end of the log is `Position(length, 0)`.

    Args:
      padding: bytes of every block that do not count, as those of encryption.

    Raises:
      ValueError: *offset* is negative or beyond the end.
    """
    left = offset
    if offset < 0:
        raise ValueError(f"no byte {offset} in a log")
    for root in head.roots:
        size = root.size - padding * flat.leaf_count(root.index)
        if left < size:
            return _descend(root.index, left, nodes, padding)
        left -= size
    if left:
        raise ValueError(f"no byte {offset} in a log of {offset - left}")
    return Position(head.length, 0)


def _descend(node: int, left: int, nodes: NodeReader, padding: int) -> Position | SeekStopped:
    while node & 1:
        child = flat.left_child(node)
        known = nodes.node(child)
        if known is None:
            return SeekStopped(node, *flat.blocks(node))
        size = known.size - padding * flat.leaf_count(child)
        if left < size:
            node = child
        else:
            left -= size
            node = flat.right_child(node)
    return Position(node >> 1, left)
