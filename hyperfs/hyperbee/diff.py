"""What changed between two versions of a Hyperbee, at a cost that follows the change.

Both trees are walked side by side, in key order. A subtree that both have at the same pointer is
the same, and passed over unread; where they differ the higher one is opened, or both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from corestore import DecodeError
from hyperfs.hyperbee.block import MAX_DEPTH
from hyperfs.index.node import BlocksMissing

if TYPE_CHECKING:
    from hyperfs.hyperbee.tree import Bee, Pointer

# How many subtrees of each side are looked into ahead when a block is missing.
_AHEAD = 16


class BeeChange(NamedTuple):
    """A key, and the blocks it was written in before and after; None where there is none."""

    key: bytes
    old: int | None
    new: int | None


class _Subtree(NamedTuple):
    pointer: Pointer
    low: bytes | None
    high: bytes | None
    height: int


class _Key(NamedTuple):
    key: bytes
    seq: int


class BeeDiff:
    """The changes from *old* to *new* among the keys from *start* to before *end*, in key order.

    An iterator of `BeeChange`. The two are versions of one log. When blocks are missing, `next`
    raises BlocksMissing and nothing is lost: fetch them and call it again. It may also raise
    DecodeError.
    """

    def __init__(self, old: Bee, new: Bee, start: bytes = b"", end: bytes | None = None) -> None:
        self._bees = (old, new)
        self._start = start
        self._end = end
        # What is still to be walked of either, the next on top.
        self._stacks: tuple[list[_Subtree | _Key], list[_Subtree | _Key]] | None = None

    def __iter__(self) -> BeeDiff:
        return self

    def __next__(self) -> BeeChange:
        try:
            return self._next()
        except BlocksMissing as error:
            raise BlocksMissing(dict.fromkeys((*error.indices, *self._ahead()))) from None

    def _next(self) -> BeeChange:
        if self._stacks is None:
            self._stacks = (_bottom(self._bees[0]), _bottom(self._bees[1]))
        old, new = self._stacks
        while old or new:
            left, right = old[-1] if old else None, new[-1] if new else None
            if isinstance(left, _Subtree) and isinstance(right, _Subtree):
                if left.pointer == right.pointer:
                    old.pop()
                    new.pop()
                    continue
                # Of different heights only the higher one can contain the other.
                opened = [
                    side
                    for side, tree in enumerate((left, right))
                    if tree.height == max(left.height, right.height)
                ]
                nodes = [(side, self._open(side)) for side in opened]
                for side, parts in nodes:
                    self._stacks[side].pop()
                    self._stacks[side].extend(parts)
            elif isinstance(left, _Subtree) and not _is_before(right, left):
                self._replace(0)
            elif isinstance(right, _Subtree) and not _is_before(left, right):
                self._replace(1)
            else:
                change = self._pop_key(left, right)
                if change.old != change.new and self._in_range(change.key):
                    return change
        raise StopIteration

    def _pop_key(self, left: _Subtree | _Key | None, right: _Subtree | _Key | None) -> BeeChange:
        """Take the smaller of the two next keys, or both."""
        assert self._stacks is not None
        before = left if isinstance(left, _Key) else None
        after = right if isinstance(right, _Key) else None
        if before is not None and after is not None and before.key != after.key:
            if before.key < after.key:
                after = None
            else:
                before = None
        if before is not None:
            self._stacks[0].pop()
        if after is not None:
            self._stacks[1].pop()
        found = before or after
        assert found is not None
        return BeeChange(found.key, before.seq if before else None, after.seq if after else None)

    def _replace(self, side: int) -> None:
        """Open the next subtree of one side."""
        assert self._stacks is not None
        parts = self._open(side)
        self._stacks[side].pop()
        self._stacks[side].extend(parts)

    def _open(self, side: int) -> list[_Subtree | _Key]:
        """What the next subtree of a side consists of, the first part last."""
        assert self._stacks is not None
        tree = self._stacks[side][-1]
        assert isinstance(tree, _Subtree)
        node = self._bees[side].node(tree.pointer, tree.low, tree.high)
        if bool(node.children) != bool(tree.height):
            raise DecodeError("leaves of one depth")
        borders = [tree.low, *node.keys, tree.high]
        parts: list[_Subtree | _Key] = []
        for at in range(len(node.keys), -1, -1):
            low, high = borders[at], borders[at + 1]
            if node.children and self._touches(low, high):
                parts.append(_Subtree(node.children[at], low, high, tree.height - 1))
            if at:
                parts.append(_Key(node.keys[at - 1], node.seqs[at - 1]))
        return parts

    def _touches(self, low: bytes | None, high: bytes | None) -> bool:
        return (high is None or high > self._start) and (
            low is None or self._end is None or low < self._end
        )

    def _in_range(self, key: bytes) -> bool:
        return key >= self._start and (self._end is None or key < self._end)

    def _ahead(self) -> list[int]:
        """Blocks that will probably be missing next."""
        missing: list[int] = []
        for bee, stack in zip(self._bees, self._stacks or (), strict=False):
            trees = [each for each in stack[-2 * _AHEAD :] if isinstance(each, _Subtree)]
            for tree in trees[-_AHEAD:]:
                try:
                    bee.node(tree.pointer, tree.low, tree.high)
                except BlocksMissing as error:
                    missing += error.indices
        return missing


def _bottom(bee: Bee) -> list[_Subtree | _Key]:
    """The whole tree, with its height, which is the same everywhere: asked for at the left."""
    if bee.root is None:
        return []
    pointer, high = bee.root, None
    for height in range(MAX_DEPTH):
        node = bee.node(pointer, None, high)
        if not node.children:
            return [_Subtree(bee.root, None, None, height)]
        pointer, high = node.children[0], node.keys[0]
    raise DecodeError("tree of bounded depth")


def _is_before(one: _Subtree | _Key | None, tree: _Subtree) -> bool:
    """Whether *one* is a key that lies in front of all of *tree*."""
    return isinstance(one, _Key) and tree.low is not None and one.key <= tree.low
