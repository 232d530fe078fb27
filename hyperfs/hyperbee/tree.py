"""One version of a Hyperbee: look up, list, and say which blocks that takes.

The keys of a node are in blocks of their own, so a look-up needs up to nine blocks for each level
of the tree. When one is missing, all the keys and all the children of its node are asked for
together: a level then costs one round trip.

Nodes come from other people's trees. All keys of a node must lie strictly between the two above
it, so whatever way a walk takes through a hostile tree, each node brings new keys in order, and the
walk ends after at most as many as the log has blocks.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import lt
from typing import TYPE_CHECKING, NamedTuple

from corestore import DecodeError
from hyperfs.hyperbee.block import MAX_DEPTH, Block, Node, decode_block
from hyperfs.index.node import BlocksMissing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperfs.index.node import BlockReader, NodeCache

# A child: the block, and the number of the level in it.
Pointer = tuple[int, int]
# The most blocks one listing asks for at once, and how many more than the keys that are wanted.
_MOST_BLOCKS = 1024
_MORE_BLOCKS = 64


class Item(NamedTuple):
    """A key, the block it was written in, and its value."""

    key: bytes
    seq: int
    value: bytes | None


class Bee:
    """The tree as of *version*, the length of the log. Immutable; costs nothing to make.

    *cache* may be shared by all versions of that log. Every method may raise BlocksMissing and
    DecodeError. A version must be the end of an append: one inside a batch has no root, and shows
    some part of the tree.
    """

    __slots__ = ("_cache", "_reader", "version")

    def __init__(self, version: int, reader: BlockReader, cache: NodeCache) -> None:
        self.version = version
        self._reader = reader
        self._cache = cache

    @property
    def root(self) -> Pointer | None:
        """The root node; None for an empty tree that has no block yet."""
        return (self.version - 1, 0) if self.version > 1 else None

    # -- reading ------------------------------------------------------------------------------

    def get(self, key: bytes) -> Item | None:
        """The item of *key*, None when there is none."""
        pointer = self.root
        low: bytes | None = None
        high: bytes | None = None
        for _ in range(MAX_DEPTH):
            if pointer is None:
                return None
            node = self.node(pointer, low, high)
            keys = node.keys
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                return self._item(key, node.seqs[at])
            if not node.children:
                return None
            pointer = node.children[at]
            low = keys[at - 1] if at else low
            high = keys[at] if at < len(keys) else high
        raise DecodeError("tree of bounded depth")

    def first(self, start: bytes, end: bytes) -> Item | None:
        """The first item from *start* to before *end*."""
        found = self.scan(start, end, 1)
        return found[0] if found else None

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[Item]:
        """The first *limit* items from *start* to before *end* (None: to the last), in order.

        Fewer than *limit* means that there are no more.
        """
        out: list[Item] = []
        if self.root is None or limit <= 0:
            return out
        try:
            for key, seq in self._walk(self.root, (None, None), start, end, 0):
                out.append(self._item(key, seq))
                if len(out) == limit:
                    break
        except BlocksMissing as error:
            wanted = min(2 * limit + _MORE_BLOCKS, _MOST_BLOCKS) if limit > 1 else 1
            raise BlocksMissing(
                dict.fromkeys((*error.indices, *self.missing(start, end, wanted)))
            ) from None
        return out

    def missing(self, start: bytes, end: bytes | None, limit: int) -> list[int]:
        """Blocks that a walk from *start* to *end* needs, as far as can be told, about *limit* of
        them at most; those nearest the root first. Empty: a walk needs no more.

        Fetch them and call again: each time one more level is known.
        """
        found: dict[int, None] = {}
        level: list[Pointer] = [] if self.root is None else [self.root]
        for _ in range(MAX_DEPTH):
            below: list[Pointer] = []
            for pointer in level:
                try:
                    node = self.node(pointer, None, None)
                except BlocksMissing as error:
                    found.update(dict.fromkeys(error.indices))
                    if len(found) >= limit:
                        return list(found)
                    continue
                stop = len(node.keys) if end is None else bisect_left(node.keys, end)
                below += node.children[bisect_left(node.keys, start) : stop + 1]
            # Those nearest the start: enough for what is wanted.
            level = below[:limit]
        return list(found)

    def upper_blocks(self, nodes: int) -> list[int]:
        """Blocks of the first *nodes* nodes, level by level from the root, that are not local.

        Fetch them and call again: each time one more level is known.
        """
        found: dict[int, None] = {}
        level: list[Pointer] = [] if self.root is None else [self.root]
        while level and nodes > 0:
            below: list[Pointer] = []
            for pointer in level[:nodes]:
                try:
                    below += self.node(pointer, None, None).children
                except BlocksMissing as error:
                    found.update(dict.fromkeys(error.indices))
            nodes -= len(level)
            level = below
        return list(found)

    # -- nodes --------------------------------------------------------------------------------

    def block(self, seq: int) -> Block:
        """Block *seq*, decoded."""
        block = self._cache.get(seq)
        if block is None:
            block = decode_block(self._reader.block(seq), seq)
            self._cache.put(seq, block)
        if not isinstance(block, Block):
            raise DecodeError("block of a Hyperbee")
        return block

    def node(self, pointer: Pointer, low: bytes | None, high: bytes | None) -> Node:
        """The tree node at *pointer*, whose keys must lie between *low* and *high* (None: any)."""
        seq, number = pointer
        block = self.block(seq)
        node = block.nodes.get(number)
        if node is None:
            node = block.nodes[number] = self._load(block, number, pointer == self.root)
        keys = node.keys
        if keys and (
            (low is not None and keys[0] <= low) or (high is not None and keys[-1] >= high)
        ):
            raise DecodeError("keys between those of the node above")
        return node

    def _load(self, block: Block, number: int, is_root: bool) -> Node:
        levels = block.levels()
        if number >= len(levels):
            raise DecodeError("level of a block")
        level = levels[number]
        if not level.keys and not is_root:
            raise DecodeError("keys of a node")
        keys: list[bytes] = []
        missing: list[int] = []
        for seq in level.keys:
            try:
                keys.append(self.block(seq).key)
            except BlocksMissing as error:
                missing += error.indices
        if missing:
            # Whoever needs the node mostly needs one of its children next.
            for seq, _ in level.children:
                try:
                    self.block(seq)
                except BlocksMissing as error:
                    missing += error.indices
            raise BlocksMissing(dict.fromkeys(missing))
        if not all(map(lt, keys, keys[1:])):
            raise DecodeError("keys in order")
        return Node(keys, level.keys, level.children)

    def _item(self, key: bytes, seq: int) -> Item:
        return Item(key, seq, self.block(seq).value)

    def _walk(
        self,
        pointer: Pointer,
        bounds: tuple[bytes | None, bytes | None],
        start: bytes,
        end: bytes | None,
        depth: int,
    ) -> Iterator[tuple[bytes, int]]:
        """The keys of a subtree from *start* to *end*, in order, and their blocks."""
        if depth == MAX_DEPTH:
            raise DecodeError("tree of bounded depth")
        low, high = bounds
        node = self.node(pointer, low, high)
        keys, children = node.keys, node.children
        first = at = bisect_left(keys, start)
        while True:
            above = keys[at] if at < len(keys) else high
            # Nothing between what is asked for first and the key that is just that.
            if children and not (at == first and at < len(keys) and keys[at] == start):
                below = keys[at - 1] if at else low
                yield from self._walk(children[at], (below, above), start, end, depth + 1)
            if at == len(keys) or (end is not None and keys[at] >= end):
                return
            yield keys[at], node.seqs[at]
            at += 1
