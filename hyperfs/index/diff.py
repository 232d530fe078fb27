"""What changed between two versions of an index, at a cost that follows the change.

Both trees are descended together, level by level. A block that both name at one level holds the
same keys and records in both, so it is left out on both sides, unread; what remains is expanded.
Then the remaining leaves are merged in key order. Keys in either version's overlays are looked up
in both. Versions that differ by their overlays alone share the whole tree, and no node is
compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from corestore import DecodeError
from hyperfs.index.node import BlocksMissing, Inner
from hyperfs.index.tree import check_bounds, load_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperfs.index.node import Node
    from hyperfs.index.tree import Index

# A key, its record before and its record after; None where there is none.
Change = tuple[bytes, bytes | None, bytes | None]
# A subtree: where its keys begin, where they end (None: nowhere), its block.
_Ref = tuple[bytes, "bytes | None", int]

# How many leaves of each side are asked for when one is missing.
_AHEAD: Final = 32


class Diff:
    """The changes from *old* to *new* among the keys from *start* to *end* (None: all that follow).

    An iterator of `(key, record before or None, record after or None)`, in key order. The two are
    views of one log, in either order of time.

    When blocks are missing, `next` raises BlocksMissing and nothing is lost: fetch them and call it
    again. It may also raise DecodeError. Memory follows the number of changed leaves.
    """

    def __init__(
        self, old: Index, new: Index, start: bytes = b"", end: bytes | None = None
    ) -> None:
        self._indices = (old, new)
        self._start = start
        self._end = end
        self._ready: deque[Change] = deque()
        self._candidates: list[bytes] = []
        self._refs: tuple[deque[_Ref], deque[_Ref]] | None = None
        # What was read of either tree and lies at or after the first key not read of the other.
        self._read: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
        self._done = False

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        while not self._ready:
            if self._done:
                raise StopIteration
            self._advance()
        return self._ready.popleft()

    def _advance(self) -> None:
        """Find some more changes. Everything is read before any state changes."""
        if self._refs is None:
            old, new = self._indices
            candidates = _candidates(old, new, self._start, self._end)
            self._refs = self._descend()
            self._candidates = candidates
        taken, leaves = self._next_leaves(self._refs)
        heads = [
            refs[count][0]
            for refs, count in zip(self._refs, taken, strict=True)
            if len(refs) > count
        ]
        safe = min(heads) if heads else None
        both: list[dict[bytes, bytes]] = []
        later: list[dict[bytes, bytes]] = []
        for read, leaf in zip(self._read, leaves, strict=True):
            seen = {**read, **leaf}
            if safe is None:
                both.append(seen)
                later.append({})
            else:
                both.append({key: value for key, value in seen.items() if key < safe})
                later.append({key: value for key, value in seen.items() if key >= safe})
        before, after = both
        changed: dict[bytes, tuple[bytes | None, bytes | None]] = {
            key: (before.get(key), after.get(key))
            for key in before.keys() | after.keys()
            if before.get(key) != after.get(key)
        }
        cut = len(self._candidates) if safe is None else bisect_left(self._candidates, safe)
        overlays = [index.overlay() for index in self._indices]
        above = [key for key in changed if key in overlays[0] or key in overlays[1]]
        changed.update(self._look_up({*above, *self._candidates[:cut]}))

        for refs, count in zip(self._refs, taken, strict=True):
            for _ in range(count):
                refs.popleft()
        self._read = (later[0], later[1])
        del self._candidates[:cut]
        for key in sorted(changed):
            pair = changed[key]
            if pair[0] != pair[1] and self._in_range(key):
                self._ready.append((key, *pair))
        self._done = safe is None

    def _in_range(self, key: bytes) -> bool:
        return key >= self._start and (self._end is None or key < self._end)

    def _next_leaves(
        self, sides: tuple[deque[_Ref], deque[_Ref]]
    ) -> tuple[list[int], list[dict[bytes, bytes]]]:
        """The items of the leaf, of either tree or of both, that begins first."""
        taken = [0, 0]
        leaves: list[dict[bytes, bytes]] = [{}, {}]
        heads = [refs[0][0] for refs in sides if refs]
        for side, refs in enumerate(sides):
            if not refs or refs[0][0] != min(heads):
                continue
            low, high, block = refs[0]
            old = self._indices[0]
            try:
                node = old.cache.node(block, 0, old.reader)
            except BlocksMissing:
                ahead = [ref[2] for refs in sides for ref in islice(refs, _AHEAD)]
                load_all(((block, 0) for block in ahead), old.reader, old.cache)
                raise
            assert not isinstance(node, Inner)
            keys = node.keys()
            check_bounds(keys[0], keys[-1], low, high)
            leaves[side] = dict(zip(keys, node.values, strict=True))
            taken[side] = 1
        return taken, leaves

    def _look_up(self, keys: set[bytes]) -> dict[bytes, tuple[bytes | None, bytes | None]]:
        missing: set[int] = set()
        found: list[dict[bytes, bytes]] = []
        for index in self._indices:
            try:
                found.append(index.get_many(keys))
            except BlocksMissing as error:
                missing.update(error.indices)
        if missing:
            raise BlocksMissing(sorted(missing))
        return {key: (found[0].get(key), found[1].get(key)) for key in keys}

    def _descend(self) -> tuple[deque[_Ref], deque[_Ref]]:
        """The leaves of either tree that the other does not have."""
        reader, cache = self._indices[0].reader, self._indices[0].cache
        sides: list[list[_Ref]] = []
        roots = [index.root.tree for index in self._indices]
        if roots[0] == roots[1]:
            return deque(), deque()
        nodes = iter(load_all(((root, None) for root in roots if root is not None), reader, cache))
        levels = [-1 if root is None else next(nodes).level for root in roots]
        sides = [[] if root is None else [(b"", None, root)] for root in roots]
        while True:
            for side in sides:
                # Or a few blocks that name one another many times over would be a large tree.
                if len({ref[2] for ref in side}) < len(side):
                    raise DecodeError("node with one parent")
            if levels[0] == levels[1]:
                shared = {ref[2] for ref in sides[0]} & {ref[2] for ref in sides[1]}
                if shared:
                    sides = [[ref for ref in side if ref[2] not in shared] for side in sides]
            top = max((level for side, level in zip(sides, levels, strict=True) if side), default=0)
            if top <= 0:
                return deque(sides[0]), deque(sides[1])
            expanded = [
                side if level == top else [] for side, level in zip(sides, levels, strict=True)
            ]
            wanted = [(ref[2], top) for side in expanded for ref in side]
            loaded = iter(load_all(wanted, reader, cache))
            for which, level in enumerate(levels):
                if level == top:
                    sides[which] = [
                        child
                        for ref in expanded[which]
                        for child in _children(ref, next(loaded))
                        if self._touches(child)
                    ]
                    levels[which] = top - 1

    def _touches(self, ref: _Ref) -> bool:
        low, high, _ = ref
        return (self._end is None or low < self._end) and (high is None or high > self._start)


def _children(ref: _Ref, node: Node) -> Iterable[_Ref]:
    """The subtrees below the one whose inner node is *node*."""
    assert isinstance(node, Inner)
    low, high, _ = ref
    separators = [node.prefix + suffix for suffix in node.suffixes]
    if separators:
        check_bounds(separators[0], separators[-1], low, high)
    return zip([low, *separators], [*separators, high], node.children, strict=True)


def _candidates(old: Index, new: Index, start: bytes, end: bytes | None) -> list[bytes]:
    """The keys of which the overlays of the two do not say the same."""
    missing: set[int] = set()
    for index in (old, new):
        try:
            index.overlay()
        except BlocksMissing as error:
            missing.update(error.indices)
    if missing:
        raise BlocksMissing(sorted(missing))
    before, after = old.overlay(), new.overlay()
    keys = {key for key, _ in before.range(start, end)} | {
        key for key, _ in after.range(start, end)
    }
    return sorted(
        key for key in keys if key not in before or key not in after or before[key] != after[key]
    )
