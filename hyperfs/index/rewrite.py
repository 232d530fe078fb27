"""Trees rewritten: the nodes to append so that a tree has some changes, or all of it in new nodes.

Only the nodes whose keys change are written, and their ancestors, children in front of their
parents. A node that grows beyond its bound is cut, one that becomes small is joined with a
neighbour.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from hyperfs.index.node import (
    INNER_BYTES,
    LEAF_BYTES,
    MAX_CHILDREN,
    BlocksMissing,
    Inner,
    Leaf,
    common_prefix,
    decode_node,
    encode_inner,
    encode_leaf,
    separator,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from hyperfs.index.node import Node
    from hyperfs.index.tree import Index

# What nodes that are split are filled to, so that the next insertions find room; inner nodes grow
# slower, and the wider they are the fewer there are to fetch.
_LEAF_FILL_BYTES: Final = LEAF_BYTES * 7 // 10
_INNER_FILL_BYTES: Final = INNER_BYTES * 9 // 10
# A smaller node is joined with its neighbour.
_LEAST_BYTES: Final = LEAF_BYTES // 4
# Type and length of a key and of a record; of a separator, and the child behind it.
ENTRY_OVERHEAD: Final = 4
_CHILD_OVERHEAD: Final = 5
# How many nodes are read, changed or written between two yields; each takes 10 to 25 us.
_NODES_A_STEP: Final = 16
# How many records a copy of the tree reads at a time, some 100 us of work.
_PAGE: Final = 256


@dataclass(slots=True)
class _Content:
    """What a node shall hold, or several if it is too much for one; not yet written.

    Of a leaf (level 0), `keys` and `values`. Of an inner node, `keys[i]` is the separator in front
    of `children[i]`, which is written; the first one is that in front of the node itself.
    `growing`: most of what is new came at the end, as it does where things are made in order.
    """

    level: int
    keys: list[bytes]
    values: list[bytes]
    children: list[int]
    measured: int | None = None
    growing: bool = False

    def grown(self, count: int, last: bytes) -> _Content:
        """This, of a node that had *count* items, the last of them *last*."""
        new = len(self.keys) - count
        self.growing = 2 * (len(self.keys) - bisect_right(self.keys, last)) > new > 0
        return self

    def sizes(self) -> list[int]:
        """How many bytes each item takes in a block without a common prefix."""
        if self.level:
            return [len(key) + _CHILD_OVERHEAD for key in self.keys]
        return [
            len(key) + len(value) + ENTRY_OVERHEAD
            for key, value in zip(self.keys, self.values, strict=True)
        ]

    def size(self) -> int:
        """How many bytes all of it takes in one block. Measured once, when it is complete."""
        if self.measured is None:
            size = sum(map(len, self.keys)) + sum(map(len, self.values))
            size += len(self.keys) * (_CHILD_OVERHEAD if self.level else ENTRY_OVERHEAD)
            self.measured = size - self.saving(0, len(self.keys))
        return self.measured

    def saving(self, start: int, end: int) -> int:
        """What storing the common prefix of the items *start* to *end* once saves."""
        if self.level:
            start += 1  # the first separator stays with the node above
        if end - start < 2:
            return 0
        return len(common_prefix(self.keys[start], self.keys[end - 1])) * (end - start - 1)

    def join(self, right: _Content) -> _Content:
        """This and the neighbour to the right as one."""
        return _Content(
            self.level,
            self.keys + right.keys,
            self.values + right.values,
            self.children + right.children,
        )

    def part(self, start: int, end: int) -> _Content:
        """The items *start* to *end*."""
        return _Content(
            self.level, self.keys[start:end], self.values[start:end], self.children[start:end]
        )


class TreeBuilder:
    """Applies changes to a tree; `blocks` are what is to be appended at *first_block*."""

    def __init__(self, index: Index | None, first_block: int) -> None:
        self.blocks: list[bytes] = []
        self._first_block = first_block
        self._index = index
        self._nodes = 0

    def apply(
        self, tree: int | None, changes: Mapping[bytes, bytes | None]
    ) -> Generator[None, None, int | None]:
        """Write the nodes of the changed tree; returns its root, None when it is empty."""
        yield
        keys = sorted(changes)
        values = [changes[key] for key in keys]
        yield
        if tree is None:
            kept = [
                (key, value) for key, value in zip(keys, values, strict=True) if value is not None
            ]
            content = _Content(0, [key for key, _ in kept], [value for _, value in kept], [])
        else:
            yield from self._load(tree, keys)
            content = yield from self._update(self._node(tree), b"", keys, values)
        while content.keys:
            if len(content.children) == 1:
                return self._without_single_children(content.children[0])
            content = yield from self._write(content, b"")
        return None

    def copy(self, index: Index) -> Generator[None, None, int | None]:
        """Write a tree of everything in *index*; returns its root, None when it is empty."""
        parent = _Content(1, [], [], [])
        keys: list[bytes] = []
        values: list[bytes] = []
        front, after, more = b"", b"", True
        while more:
            page = index.scan(after, None, _PAGE)
            yield
            more = len(page) == _PAGE
            keys += [key for key, _ in page]
            values += [value for _, value in page]
            if not keys:
                break
            after = keys[-1] + b"\0"
            content = _Content(0, keys, values, [])
            # The last node may go on in the next page.
            end = len(keys) if not more else [0, *_cuts(content)][-2]
            if end:
                written = yield from self._write(content.part(0, end), front)
                parent.keys += written.keys
                parent.children += written.children
                if end < len(keys):
                    front = separator(keys[end - 1], keys[end])
            keys, values = keys[end:], values[end:]
        while len(parent.children) > 1:
            parent = yield from self._write(parent, b"")
        return parent.children[0] if parent.children else None

    def _without_single_children(self, tree: int) -> int:
        """The first node from *tree* down that is a leaf or has several children."""
        while True:
            written = tree - self._first_block
            node = self._node(tree) if written < 0 else decode_node(self.blocks[written], tree)
            if isinstance(node, Leaf) or len(node.children) > 1:
                return tree
            if written == len(self.blocks) - 1:
                self.blocks.pop()
            tree = node.children[0]

    def _load(self, tree: int, keys: list[bytes]) -> Generator[None, None, None]:
        """Have all nodes that *keys* lead to in the cache, or say together which are missing."""
        level: dict[int, tuple[int, int]] = {tree: (0, len(keys))}
        while level:
            missing: list[int] = []
            below: dict[int, tuple[int, int]] = {}
            for block, (start, end) in level.items():
                try:
                    node = self._node(block)
                except BlocksMissing as error:
                    missing += error.indices
                    continue
                if isinstance(node, Inner):
                    for position, low, high in _partition(node, keys, start, end):
                        below[node.children[position]] = (low, high)
                if self._worked():
                    yield
            if missing:
                raise BlocksMissing(missing)
            level = below

    def _worked(self) -> bool:
        """Count a node read, changed or written; whether it is time to let others run."""
        self._nodes += 1
        return self._nodes % _NODES_A_STEP == 0

    def _node(self, block: int) -> Node:
        assert self._index is not None
        return self._index.cache.node(block, None, self._index.reader)

    def _update(
        self, node: Node, low: bytes, keys: list[bytes], values: list[bytes | None]
    ) -> Generator[None, None, _Content]:
        """The content of *node*, whose separator in front is *low*, with the changes applied."""
        if isinstance(node, Leaf):
            return self._update_leaf(node, keys, values)
        children: list[tuple[bytes, int | _Content]] = [
            (node.separator(position) if position else low, child)
            for position, child in enumerate(node.children)
        ]
        for position, start, end in _partition(node, keys, 0, len(keys)):
            child = self._node(node.children[position])
            front = children[position][0]
            changed = yield from self._update(child, front, keys[start:end], values[start:end])
            changed.size()  # now, between two yields, and not for all children at once
            children[position] = (front, changed)
            if self._worked():
                yield
        out = _Content(node.level, [], [], [])
        for front, slot in self._joined(children):
            if isinstance(slot, int):
                out.keys.append(front)
                out.children.append(slot)
            else:
                written = yield from self._write(slot, front)
                out.keys += written.keys
                out.children += written.children
        return out.grown(len(node.children), children[-1][0])

    @staticmethod
    def _update_leaf(node: Leaf, keys: list[bytes], values: list[bytes | None]) -> _Content:
        merged: dict[bytes, bytes] = dict(zip(node.keys(), node.values, strict=True))
        for key, value in zip(keys, values, strict=True):
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = value
        ordered = sorted(merged)
        content = _Content(0, ordered, [merged[key] for key in ordered], [])
        return content.grown(len(node.values), node.prefix + node.suffixes[-1])

    def _joined(
        self, children: list[tuple[bytes, int | _Content]]
    ) -> list[tuple[bytes, int | _Content]]:
        """Drop what became empty, and join what became small with a neighbour."""
        out: list[tuple[bytes, int | _Content]] = []
        for front, slot in children:
            if isinstance(slot, _Content) and not slot.keys:
                continue
            if out and (_is_small(slot) or _is_small(out[-1][1])):
                left = self._content(*out[-1])
                out[-1] = (out[-1][0], left.join(self._content(front, slot)))
            else:
                out.append((front, slot))
        return out

    def _content(self, front: bytes, slot: int | _Content) -> _Content:
        """The content of a child, read if it is one that does not change."""
        if isinstance(slot, _Content):
            return slot
        node = self._node(slot)
        if isinstance(node, Leaf):
            return _Content(0, node.keys(), list(node.values), [])
        fronts = [front, *(node.separator(i) for i in range(1, len(node.children)))]
        return _Content(node.level, fronts, [], list(node.children))

    def _write(self, content: _Content, front: bytes) -> Generator[None, None, _Content]:
        """Write the content as nodes; returns the content of their parent."""
        parent = _Content(content.level + 1, [], [], [])
        start = 0
        for end in _cuts(content):
            part = content.part(start, end)
            if start:
                left, right = content.keys[start - 1], content.keys[start]
                front = right if content.level else separator(left, right)
            index = self._first_block + len(self.blocks)
            if content.level:
                block = encode_inner(content.level, part.keys[1:], part.children, index=index)
            else:
                block = encode_leaf(part.keys, part.values)
            self.blocks.append(block)
            parent.keys.append(front)
            parent.children.append(index)
            start = end
            if self._worked():
                yield
        return parent


def _partition(
    node: Inner, keys: Sequence[bytes], start: int, end: int
) -> list[tuple[int, int, int]]:
    """Which children the sorted *keys* from *start* to *end* lie in: (position, start, end)."""
    out: list[tuple[int, int, int]] = []
    while start < end:
        position = node.position(keys[start])
        stop = end
        if position < len(node.suffixes):
            stop = bisect_left(keys, node.separator(position + 1), start, end)
        out.append((position, start, stop))
        start = stop
    return out


def _is_small(slot: int | _Content) -> bool:
    return isinstance(slot, _Content) and slot.size() < _LEAST_BYTES


def _cuts(content: _Content) -> list[int]:
    """Where to cut the content into nodes: the end of each. One if all of it fits."""
    count = len(content.keys)
    most = INNER_BYTES if content.level else LEAF_BYTES
    if content.size() <= most and count <= MAX_CHILDREN:
        return [count]
    fill = _INNER_FILL_BYTES if content.level else _LEAF_FILL_BYTES
    # Bytes in front of each item, prefixes not counted.
    before = [0, *accumulate(content.sizes())]
    starts = [0]
    while starts[-1] < count:
        start = starts[-1]
        # The common prefix shortens what it is cut from, so the cut is found by trying.
        low, high = start + 1, min(count, start + min(MAX_CHILDREN, most // ENTRY_OVERHEAD))
        while low < high:
            middle = (low + high + 1) // 2
            if before[middle] - before[start] - content.saving(start, middle) <= fill:
                low = middle
            else:
                high = middle - 1
        starts.append(low)
    if len(starts) > 2 and not content.growing and before[count] - before[starts[-2]] < fill // 2:
        # Share the last two nodes' items out evenly: both have room then. Where all that comes next
        # goes to the last one, the others would stay half empty for ever.
        first = starts[-3]
        half = bisect_left(before, (before[first] + before[count]) // 2)
        starts[-2] = min(max(half, first + 1), count - 1)
    return starts[1:]
