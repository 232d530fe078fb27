"""One version of the index: look up, list, and say which blocks that takes.

A look-up asks the changes in the root block, then the older overlay, then descends the tree; a
listing merges the three. Nothing here waits: a block that is not local ends the call with
`BlocksMissing`, which names all blocks the call knows it needs, and the caller fetches them and
calls again.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from corestore import DecodeError
from hyperfs.index.node import (
    BlocksMissing,
    Inner,
    Leaf,
    decode_node,
    decode_overlay_and_top,
)
from hyperfs.index.overlay import Overlay
from hyperfs.index.root import load_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperfs.index.node import BlockReader, Node, NodeCache
    from hyperfs.index.root import RootInfo

_ABSENT: Final = object()
# Leaves are taken to hold this many entries when a listing guesses which it will need.
_LEAF_ENTRIES: Final = 40
# With more files than this the tree mostly has three levels, and its topmost node comes with the
# overlay. Where that guess is wrong, one block more is fetched, or one later.
_REPEATED_FROM: Final = 50_000
# The most blocks one listing asks for at once: 256 KiB of leaves.
_MOST_LEAVES: Final = 64


class OverlayBlock:
    """A decoded overlay block, as it lies in the cache."""

    __slots__ = ("changes", "cost", "top")

    def __init__(self, block: bytes) -> None:
        self.changes, self.top = decode_overlay_and_top(block)
        self.cost = 200 * len(self.changes) + len(block)


class Index:
    """The index of a drive as of one root block. Immutable; costs little to make.

    *reader* is the metadata log; *cache* may be shared by all views of that log.

    Making one raises BlocksMissing when the root block is not local, DecodeError and
    UnsupportedFormat when it is none that this program reads. Every method may raise BlocksMissing
    and DecodeError.
    """

    __slots__ = ("_cache", "_changes", "_reader", "_recent", "root")

    root: RootInfo

    def __init__(self, root_block: int, reader: BlockReader, cache: NodeCache) -> None:
        root = load_root(root_block, reader, cache)
        self.root = root.info
        self._recent = root.recent
        self._changes: Overlay[bytes] | None = None
        self._reader = reader
        self._cache = cache

    @property
    def reader(self) -> BlockReader:
        """The metadata log it reads."""
        return self._reader

    @property
    def cache(self) -> NodeCache:
        """Where its nodes are kept."""
        return self._cache

    # -- reading ------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The record under *key*, None when there is none."""
        value: object = self._recent.get(key, _ABSENT)
        if value is _ABSENT:
            if self.root.overlay is not None:
                value = self.older().get(key, _ABSENT)
            if value is _ABSENT:
                return self.tree_get(key)
        return value  # type: ignore[return-value]  # not _ABSENT: a record or None

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The records under those of *keys* that have one. Misses of all keys are told together."""
        out: dict[bytes, bytes] = {}
        missing: set[int] = set()
        for key in keys:
            try:
                value = self.get(key)
            except BlocksMissing as error:
                missing.update(error.indices)
                continue
            if value is not None:
                out[key] = value
        if missing:
            raise BlocksMissing(sorted(missing))
        return out

    def scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """The first *limit* keys and records from *start* to *end* (None: to the last), in order.

        Fewer than *limit* means that there are no more. To go on, scan from the last key + NUL.
        """
        return self.overlay().scan_over(self.tree_scan, start, end, limit)

    def inner_blocks(self, limit: int = 1024) -> list[int]:
        """Blocks above the leaves that are not local yet, at most about *limit*; nearest the root
        first.

        With them every look-up needs one block. Fetch them and call again, until it is empty.
        """
        missing: list[int] = []
        if self.root.overlay is not None:
            try:
                self.older()
            except BlocksMissing as error:
                missing += error.indices
        if self.root.tree is None:
            return missing
        level: dict[int, int | None] = {self.root.tree: None}
        while level and len(missing) < limit:
            below: dict[int, int | None] = {}
            for index, expected in level.items():
                try:
                    node = self._cache.node(index, expected, self._reader)
                except BlocksMissing as error:
                    missing += error.indices
                    continue
                if isinstance(node, Inner) and node.level > 1:
                    below.update(dict.fromkeys(node.children, node.level - 1))
            level = below
        return sorted(set(missing))

    # -- the three layers ---------------------------------------------------------------------

    def recent(self) -> dict[bytes, bytes | None]:
        """The changes in the root block. Not to be changed."""
        return self._recent

    def older(self) -> dict[bytes, bytes | None]:
        """The changes in the older overlay. Not to be changed."""
        block = self.root.overlay
        if block is None:
            return {}
        overlay = self._cache.get(block)
        if overlay is None:
            try:
                overlay = OverlayBlock(self._reader.block(block))
            except BlocksMissing as error:
                # Whoever needs the overlay mostly needs the tree next.
                raise BlocksMissing((*error.indices, *self._tree_missing())) from None
            self._cache.put(block, overlay)
            top = self.root.tree
            if overlay.top is not None and top is not None and self._cache.get(top) is None:
                self._cache.put(top, decode_node(overlay.top, top))
        if not isinstance(overlay, OverlayBlock):
            raise DecodeError("overlay")
        return overlay.changes

    def _tree_missing(self) -> tuple[int, ...]:
        if self.root.tree is not None and self.root.files < _REPEATED_FROM:
            try:
                self._cache.node(self.root.tree, None, self._reader)
            except BlocksMissing as error:
                return error.indices
        return ()

    def overlay(self) -> Overlay[bytes]:
        """All changes that lie over the tree. Not to be changed."""
        if self._changes is None:
            self._changes = Overlay({**self.older(), **self._recent})
        return self._changes

    def tree_get(self, key: bytes) -> bytes | None:
        """The record under *key* in the tree alone."""
        index = self.root.tree
        if index is None:
            return None
        node = self._cache.node(index, None, self._reader)
        while type(node) is Inner:
            node = self._cache.node(node.children[node.position(key)], node.level - 1, self._reader)
        assert isinstance(node, Leaf)
        prefix = node.prefix
        if not key.startswith(prefix):
            return None
        suffix = key[len(prefix) :]
        suffixes = node.suffixes
        at = bisect_left(suffixes, suffix)
        return node.values[at] if at < len(suffixes) and suffixes[at] == suffix else None

    def tree_scan(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """As `scan`, of the tree alone."""
        out: list[tuple[bytes, bytes]] = []
        if self.root.tree is None or limit <= 0 or (end is not None and start >= end):
            return out
        walk = _Walk(self, start, end)
        walk.wanted = limit
        for keys, values in walk.leaves(self.root.tree, None, b"", None):
            out += zip(keys, values, strict=True)
            walk.wanted = limit - len(out)
            if walk.wanted <= 0:
                return out[:limit]
        return out


class _Walk:
    """One pass over the leaves of a range, which checks what can only be seen from above: that
    the keys of every node lie between its parent's separators. So each leaf brings new keys, in
    order, and a walk through a hostile tree ends.
    """

    def __init__(self, index: Index, start: bytes, end: bytes | None) -> None:
        self._reader = index.reader
        self._cache = index.cache
        self._start = start
        self._end = end
        self.wanted = 0

    def leaves(
        self, block: int, level: int | None, low: bytes, high: bytes | None
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """The keys and values in range, leaf by leaf, of the subtree at *block*."""
        node = self._cache.node(block, level, self._reader)
        start, end = self._start, self._end
        if isinstance(node, Leaf):
            check_bounds(node.key(0), node.key(-1), low, high)
            at = node.place(start)
            stop = len(node.values) if end is None else node.place(end)
            if at < stop:
                yield node.keys(at, stop), node.values[at:stop]
            return
        if node.suffixes:
            check_bounds(node.separator(1), node.separator(len(node.suffixes)), low, high)
        at = node.position(start)
        stop = len(node.suffixes)
        if end is not None:
            stop = node.position(end)
            if stop and node.separator(stop) == end:
                stop -= 1
        for position in range(at, stop + 1):
            child = node.children[position]
            try:
                self._cache.node(child, node.level - 1, self._reader)
            except BlocksMissing:
                raise BlocksMissing(self._ahead(node, position, stop)) from None
            yield from self.leaves(
                child,
                node.level - 1,
                node.separator(position) if position else low,
                node.separator(position + 1) if position < len(node.suffixes) else high,
            )

    def _ahead(self, node: Inner, position: int, stop: int) -> list[int]:
        """Which children from *position* on will be needed too, as far as one can tell."""
        entries = _LEAF_ENTRIES * 100 ** (node.level - 1)
        count = min(self.wanted // entries + 1, _MOST_LEAVES)
        children = node.children[position : min(position + count, stop + 1)]
        missing: list[int] = []
        for child in children:
            try:
                self._cache.node(child, node.level - 1, self._reader)
            except BlocksMissing as error:
                missing += error.indices
        return missing


def check_bounds(first: bytes, last: bytes, low: bytes, high: bytes | None) -> None:
    """Raise DecodeError unless *first* to *last* lie from *low* to before *high* (None: no end)."""
    if first < low or (high is not None and last >= high):
        raise DecodeError("keys between the separators of the node above")


def load_all(
    refs: Iterable[tuple[int, int | None]], reader: BlockReader, cache: NodeCache
) -> list[Node]:
    """The nodes of several (block, level); misses of all are told together."""
    nodes: list[Node] = []
    missing: list[int] = []
    for block, level in refs:
        try:
            nodes.append(cache.node(block, level, reader))
        except BlocksMissing as error:
            missing += error.indices
    if missing:
        raise BlocksMissing(missing)
    return nodes
